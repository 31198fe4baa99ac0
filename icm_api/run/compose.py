"""Puts the parts together. The only place that knows them all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from icm_api.client.codec import check_identity
from icm_api.client.meter import Limits, Snapshot
from icm_api.client.prices import STANDARD_TIERS, Price, find_price, parse_price
from icm_api.client.retry import RetryPolicy, Sleep
from icm_api.client.stack import Client, build_client
from icm_api.config import ProviderConfig
from icm_api.core.chains import ChainBuilder, ChainPolicy
from icm_api.core.context import ContextBuilder, ContextPolicy
from icm_api.errors import ConfigError, DataError, TransientError
from icm_api.local.models import default_cache_dir
from icm_api.local.session import open_local
from icm_api.providers.base import Provider
from icm_api.providers.choices import question, written
from icm_api.providers.registry import ProviderSettings, check_settings, open_provider
from icm_api.run.job import Job, refuse_control_tokens
from icm_api.run.methods import Tools
from icm_api.run.probe_record import refuse_disproved
from icm_api.run.scorer import PromptScorer
from icm_api.types import ChoiceRequest, Prompt, TokenCountRequest

Say = Callable[[str], None]

BYTES_PER_TOKEN = 2.5
"""A cautious guess for hosts that do not count tokens (UTF-8; English prose has about 4, Chinese about 3)."""
TURN_TOKENS = 16
"""What a chat route may add around a demonstration."""
TYPICAL_BYTES_PER_TOKEN = 4.0
"""Of English prose: what an estimate goes by where the host does not count tokens."""
TYPICAL_TURN_TOKENS = 8
"""What a chat route adds around a demonstration: its two turns take 3 tokens each at OpenAI, 5 as ChatML."""
SEPARATOR = Prompt("").separator
TOKEN_COUNT_BATCH = 256
SAMPLE = 64
"""Examples that tell how many tokens joined parts have."""
PAPER_POOL = 256
"""Examples in the paper's context."""
OPENING_WAIT_S = 0.5
"""First of three waits, each twice the last, for a server that does not answer yet."""


@asynccontextmanager
async def open_client(
    config: ProviderConfig,
    environ: Mapping[str, str],
    say: Say | None = None,
    *,
    replies: Path | None = None,
    spent: Snapshot | None = None,
    wrap: Callable[[Provider], Provider] = lambda adapter: adapter,
    sleep: Sleep = asyncio.sleep,
    keyless: bool = False,
) -> AsyncIterator[Client]:
    """The provider behind cache, meter, retries and limiter; everything it started is stopped at the end.

    `replies`: where they are kept when the settings ask for no shared cache (None: nowhere); `spent` and `sleep` as
    `build_client` takes them; `wrap` goes around the bare adapter; `keyless` as `open_provider` takes it.
    """
    async with open_adapter(config, environ, say, keyless=keyless) as adapter:
        folder = config.cache_dir or default_cache_dir(environ)
        refuse_disproved(folder, adapter)
        client = build_client(
            wrap(adapter),
            cache=folder / "replies" if config.cache else replies,
            limits=Limits(config.max_requests, config.max_prompt_tokens, config.max_usd),
            retry_policy=RetryPolicy(),
            max_concurrency=config.concurrency,
            price=_limitable_price(config, adapter.model),
            spent=spent,
            sleep=sleep,
            say=say,
        )
        try:
            yield client
        finally:
            await client.aclose()


def known_price(config: ProviderConfig, model: str, longest_prompt_tokens: int | None = None) -> Price | None:
    """The price that the user states, else the list price (see `find_price`); None: unknown. Raises ConfigError."""
    return stated_price(config) or find_price(
        config.provider,
        model,
        config.base_url,
        longest_prompt_tokens=longest_prompt_tokens,
        service_tier=_service_tier(config),
    )


def why_unpriced(config: ProviderConfig) -> str:
    """Why `known_price` is None, for people."""
    if (tier := _service_tier(config)) in STANDARD_TIERS:
        return "no price is known for this model at this host"
    return f"no price is known for service tier {tier!r} (--extra-body) of this model at this host"


def _limitable_price(config: ProviderConfig, model: str) -> Price | None:
    """Raises ConfigError where a limit in dollars is given and a service tier makes the price unknown."""
    price = known_price(config, model)
    if price is None and config.max_usd is not None and _service_tier(config) not in STANDARD_TIERS:
        raise ConfigError(
            f"--max-usd: {why_unpriced(config)}, so no limit in dollars can be kept: state it with --price"
        )
    return price


def _service_tier(config: ProviderConfig) -> str | None:
    tier = config.extra_body.get("service_tier")
    return tier if tier is None or isinstance(tier, str) else str(tier)


def stated_price(config: ProviderConfig) -> Price | None:
    """The price that the user states; None: none. Raises ConfigError for one that cannot be read."""
    return None if config.price is None else parse_price(config.price)


@asynccontextmanager
async def open_adapter(
    config: ProviderConfig, environ: Mapping[str, str], say: Say | None = None, *, keyless: bool = False
) -> AsyncIterator[Provider]:
    """The bare provider that the configuration names; `local` brings its own server (`say`: while it is fetched)."""
    settings = ProviderSettings(
        model=config.model,
        base_url=config.base_url,
        api_key_env=config.api_key_env,
        route=config.route,
        top_k=config.top_k,
        timeout_s=config.timeout_s,
        context_tokens=config.context_tokens,
        echo=config.echo,
        extra_body=config.extra_body,
        options=config.provider_options,
    )
    check_settings(config.provider, settings)
    if config.provider == "local":
        folder = config.cache_dir or default_cache_dir(environ)
        tokens = config.context_tokens
        async with open_local(config.model, cache_dir=folder, context_tokens=tokens, progress=say) as provider:
            yield provider
        return
    provider = await _open_patiently(config.provider, settings, environ, keyless)
    try:
        check_identity(provider)
        yield provider
    finally:
        await provider.aclose()


async def _open_patiently(name: str, settings: ProviderSettings, environ: Mapping[str, str], keyless: bool) -> Provider:
    """A few short waits for a server that is just starting; a host that is down is reported within seconds."""
    waiting = AsyncRetrying(
        retry=retry_if_exception_type(TransientError),
        wait=wait_exponential(OPENING_WAIT_S),
        stop=stop_after_attempt(4),
        reraise=True,
    )
    return await waiting(open_provider, name, settings, environ, keyless=keyless)


@dataclass(frozen=True, slots=True)
class PromptSizes:
    """Tokens of the parts of prompts: an estimate of each, and a bound of each example to fit contexts by."""

    bounds: tuple[int, ...]
    """Of each example with its longest label and separator, at most."""
    texts: tuple[float, ...]
    """Of each example as a query."""
    labels: tuple[float, ...]
    separator: float
    """Of what stands between examples."""
    preamble: float
    """With its separator; 0: none."""
    joined: float = 1.0
    """Tokens of demonstrations in a prompt, of one that their parts have alone."""
    counted: bool = False
    """By the host; else all is guessed from the length."""

    def demonstration(self, example: int, label: int) -> float:
        """Tokens of an example shown with a label, separator included."""
        return self.joined * (self.texts[example] + self.labels[label] + self.separator)

    def query(self, example: int) -> float:
        """Tokens of a prompt that shows nothing else."""
        return self.preamble + self.texts[example]


def build_search(job: Job, provider: Provider, sizes: PromptSizes, say: Say | None = None) -> Tools:
    """What a method works with, for a job on a provider. Raises DataError when an example alone is too long for it."""
    if not provider.capabilities.plain_text_tokens:
        refuse_control_tokens(job)
    _refuse_unused_votes(job.config, provider)
    config, siblings = job.config, job.problem.siblings
    room = _room(job, provider, sizes.bounds, say)
    most = config.max_demonstrations or PAPER_POOL
    leave_out = not config.keep_siblings
    scorer = PromptScorer(
        provider,
        job.task.labels,
        job.texts,
        preamble=job.task.preamble,
        min_mass=config.min_mass,
        concurrency=config.concurrency,
        votes=config.votes,
    )
    shown = ContextPolicy(config.order, leave_out_siblings=leave_out, max_demonstrations=most, max_tokens=room)
    chained = ChainPolicy(max_tokens=room, max_examples=most + 1, leave_out_siblings=leave_out)  # the last shows none
    return Tools(
        scorer,
        ContextBuilder(siblings, sizes.bounds, shown, seed=config.seed),
        ChainBuilder(siblings, sizes.bounds, chained),
    )


def _refuse_unused_votes(config: ProviderConfig, provider: Provider) -> None:
    if "votes" in config.model_fields_set and provider.capabilities.choices != "votes":
        raise ConfigError(
            f"--votes: provider {provider.name!r} tells probabilities as it is asked here, so no answers are counted; "
            "leave it out (or ask for them with --route votes, where the provider has it)"
        )


async def measure_sizes(job: Job, provider: Provider) -> PromptSizes:
    """Sizes of the job's parts, counted where the host counts tokens (it charges nothing for that), else guessed."""
    return await _counted_sizes(job, provider) if provider.capabilities.counts_tokens else _guessed_sizes(job, provider)


def longest_prompt_tokens(job: Job, provider: Provider, sizes: PromptSizes) -> int:
    """Upper bound on the tokens of the longest prompt of any method."""
    most = (job.config.max_demonstrations or PAPER_POOL) + 1
    longest = len(_around(job, provider).encode()) + sum(sorted(sizes.bounds)[-most:])
    context = _context_tokens(job, provider)
    return longest if context is None else min(longest, context)


def _guessed_sizes(job: Job, provider: Provider) -> PromptSizes:
    bound_turn, turn = (1, 0) if provider.capabilities.continues_label else (TURN_TOKENS, TYPICAL_TURN_TOKENS)
    labels = [written(label.text) if provider.capabilities.choices else label.text for label in job.task.labels]
    blocks = (f"{SEPARATOR}{text}{max(labels, key=len)}" for text in job.texts)
    return PromptSizes(
        bounds=tuple(math.ceil(len(block.encode()) / BYTES_PER_TOKEN) + bound_turn for block in blocks),
        texts=tuple(map(_typical_tokens, job.texts)),
        labels=tuple(map(_typical_tokens, labels)),
        separator=_typical_tokens(SEPARATOR) + turn,
        preamble=_typical_tokens(_around(job, provider)),
    )


def _around(job: Job, provider: Provider) -> str:
    """What every prompt says beside its examples: the preamble, and how to answer where a label is asked for."""
    if provider.capabilities.choices is None:
        return job.task.preamble
    labels = tuple(label.text for label in job.task.labels)
    asked = question(ChoiceRequest(Prompt(" ", preamble=job.task.preamble), labels))
    return asked.system + asked.asked


def _typical_tokens(text: str) -> float:
    return len(text.encode()) / TYPICAL_BYTES_PER_TOKEN


async def _counted_sizes(job: Job, provider: Provider) -> PromptSizes:
    labels = [label.text for label in job.task.labels]
    separator, *rest = await _counts(provider, chain((SEPARATOR, *labels), job.texts))
    sizes = PromptSizes(
        # one to spare: joined parts may split differently
        bounds=tuple(text + max(rest[: len(labels)]) + separator + 1 for text in rest[len(labels) :]),
        texts=tuple(rest[len(labels) :]),
        labels=tuple(rest[: len(labels)]),
        separator=separator,
        preamble=0.0,
        counted=True,
    )
    sizes = replace(sizes, preamble=await _preamble_tokens(job, provider, sizes))
    return replace(sizes, joined=await _joined(job, provider, sizes))


async def _preamble_tokens(job: Job, provider: Provider, sizes: PromptSizes) -> float:
    """What the preamble adds to a query, on average."""
    if not job.task.preamble:
        return 0.0
    sample = job.texts[:SAMPLE]
    whole = await _counts(provider, [Prompt(text, preamble=job.task.preamble).text for text in sample])
    return (sum(whole) - sum(sizes.texts[: len(sample)])) / len(sample)


async def _joined(job: Job, provider: Provider, sizes: PromptSizes) -> float:
    """Measured on one prompt; parts alone have a few tokens more, where the host rounds up or merges across them."""
    *shown, last = [(i, i % len(sizes.labels)) for i in range(min(SAMPLE, len(job.texts)))]
    if not shown:
        return 1.0
    demonstrations = tuple((job.texts[i], job.task.labels[k].text) for i, k in shown)
    (whole,) = await _counts(provider, [Prompt(job.texts[last[0]], demonstrations, job.task.preamble).text])
    return (whole - sizes.query(last[0])) / sum(sizes.demonstration(i, k) for i, k in shown)


async def _counts(provider: Provider, texts: Iterable[str]) -> list[int]:
    counts: list[int] = []
    left = iter(texts)
    while batch := tuple(islice(left, TOKEN_COUNT_BATCH)):
        counts += (await provider.send(TokenCountRequest(batch))).counts
    return counts


def _context_tokens(job: Job, provider: Provider) -> int | None:
    return job.config.context_tokens or provider.capabilities.context_tokens


def _room(job: Job, provider: Provider, sizes: Sequence[int], say: Say | None) -> int | None:
    """Tokens for demonstrations and query: the context less the preamble and a few for its start and the answer."""
    context = _context_tokens(job, provider)
    if context is None:
        if say:
            say(
                "the host does not say how long a prompt may be: nothing limits it but --context-tokens, if you give it"
            )
        return None
    room = context - len(_around(job, provider).encode()) - 8
    too_long = [
        f"{job.dataset.source}:{example.line}: example {example.id!r} takes {size} tokens, and the context has room "
        f"for {room}: shorten or remove it, or use a model with a longer context"
        for example, size in zip(job.examples, sizes, strict=True)
        if size > room
    ]
    if too_long:
        raise DataError(too_long[:20])
    return room
