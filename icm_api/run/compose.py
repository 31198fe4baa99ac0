"""Puts the parts together. The only place that knows them all."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from icm_api.client.meter import Limits
from icm_api.client.retry import RetryPolicy
from icm_api.client.stack import Client, build_client
from icm_api.config import ProviderConfig
from icm_api.core.chains import ChainBuilder, ChainPolicy
from icm_api.core.context import ContextBuilder, ContextPolicy
from icm_api.errors import DataError, TransientError
from icm_api.local.models import default_cache_dir
from icm_api.local.session import open_local
from icm_api.providers.base import Provider
from icm_api.providers.registry import ProviderSettings, check_settings, open_provider
from icm_api.run.job import Job, refuse_control_tokens
from icm_api.run.methods import Tools
from icm_api.run.scorer import PromptScorer
from icm_api.types import TokenCountRequest

Say = Callable[[str], None]

BYTES_PER_TOKEN = 2.5
"""A cautious guess for hosts that do not count tokens (UTF-8; English prose has about 4, Chinese about 3)."""
TURN_TOKENS = 16
"""What a chat route may add around a demonstration."""
TOKEN_COUNT_BATCH = 256
PAPER_POOL = 256
"""Examples in the paper's context."""
OPENING_WAIT_S = 0.5
"""First of three waits, each twice the last, for a server that does not answer yet."""


@asynccontextmanager
async def open_client(
    config: ProviderConfig, environ: Mapping[str, str], say: Say | None = None
) -> AsyncIterator[Client]:
    """The provider behind cache, meter, retries and limiter; everything it started is stopped at the end."""
    async with open_adapter(config, environ, say) as adapter:
        folder = config.cache_dir or default_cache_dir(environ)
        client = build_client(
            adapter,
            cache=folder / "replies" if config.cache else None,
            limits=Limits(config.max_requests, config.max_prompt_tokens),
            retry_policy=RetryPolicy(),
            max_concurrency=config.concurrency,
        )
        try:
            yield client
        finally:
            await client.aclose()


@asynccontextmanager
async def open_adapter(
    config: ProviderConfig, environ: Mapping[str, str], say: Say | None = None
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
        options=config.provider_options,
    )
    check_settings(config.provider, settings)
    if config.provider == "local":
        folder = config.cache_dir or default_cache_dir(environ)
        tokens = config.context_tokens
        async with open_local(config.model, cache_dir=folder, context_tokens=tokens, progress=say) as provider:
            yield provider
        return
    provider = await _open_patiently(config.provider, settings, environ)
    try:
        yield provider
    finally:
        await provider.aclose()


async def _open_patiently(name: str, settings: ProviderSettings, environ: Mapping[str, str]) -> Provider:
    """A few short waits for a server that is just starting; a host that is down is reported within seconds."""
    waiting = AsyncRetrying(
        retry=retry_if_exception_type(TransientError),
        wait=wait_exponential(OPENING_WAIT_S),
        stop=stop_after_attempt(4),
        reraise=True,
    )
    return await waiting(open_provider, name, settings, environ)


async def build_search(job: Job, provider: Provider, say: Say | None = None) -> Tools:
    """What a method works with, for a job on a provider. Raises DataError when an example alone is too long for it."""
    if not provider.capabilities.plain_text_tokens:
        refuse_control_tokens(job)
    config, siblings = job.config, job.problem.siblings
    sizes = await _sizes(job, provider)
    room = _room(job, provider, sizes, say)
    most = config.max_demonstrations or PAPER_POOL
    leave_out = not config.keep_siblings
    scorer = PromptScorer(
        provider,
        job.task.labels,
        job.texts,
        preamble=job.task.preamble,
        min_mass=config.min_mass,
        concurrency=config.concurrency,
    )
    shown = ContextPolicy(config.order, leave_out_siblings=leave_out, max_demonstrations=most, max_tokens=room)
    chained = ChainPolicy(max_tokens=room, max_examples=most, leave_out_siblings=leave_out)
    return Tools(
        scorer,
        ContextBuilder(siblings, sizes, shown, seed=config.seed),
        ChainBuilder(siblings, sizes, chained),
    )


async def _sizes(job: Job, provider: Provider) -> list[int]:
    """Tokens of each example with its longest label and separator, counted by the host or guessed with caution."""
    longest = max((label.text for label in job.task.labels), key=len)
    blocks = [f"\n\n{text}{longest}" for text in job.texts]
    if not provider.capabilities.counts_tokens:
        turn = TURN_TOKENS if job.config.route == "chat" else 1
        return [math.ceil(len(block.encode()) / BYTES_PER_TOKEN) + turn for block in blocks]
    counts: list[int] = []
    for start in range(0, len(blocks), TOKEN_COUNT_BATCH):
        reply = await provider.send(TokenCountRequest(tuple(blocks[start : start + TOKEN_COUNT_BATCH])))
        counts += [count + 1 for count in reply.counts]  # one to spare: joined blocks may split differently
    return counts


def _room(job: Job, provider: Provider, sizes: list[int], say: Say | None) -> int | None:
    """Tokens for demonstrations and query: the context less the preamble and a few for its start and the answer."""
    context = job.config.context_tokens or provider.capabilities.context_tokens
    if context is None:
        if say:
            say(
                "the host does not say how long a prompt may be: nothing limits it but --context-tokens, if you give it"
            )
        return None
    room = context - len(job.task.preamble.encode()) - 8
    too_long = [
        f"{job.dataset.source}:{example.line}: example {example.id!r} takes {size} tokens, and the context has room "
        f"for {room}: shorten or remove it, or use a model with a longer context"
        for example, size in zip(job.examples, sizes, strict=True)
        if size > room
    ]
    if too_long:
        raise DataError(too_long[:20])
    return room
