"""What each method would cost: requests, tokens and dollars, before anything is paid for.

The methods that score whole passes are played against a scorer that counts what it is asked and answers by itself, so
their plan is what they do. For the others the questions are counted, and the prompts of a sample of them built.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from itertools import accumulate
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from icm_api.client.prices import Price, dollars, plain_usd
from icm_api.config import GOLD_METHOD, Method, RunConfig
from icm_api.core.baselines import round_sizes
from icm_api.core.calibrate import Floats
from icm_api.core.consistency import Consistency
from icm_api.core.context import Chain, Query
from icm_api.core.sweep import most_asked_alone
from icm_api.providers.base import Provider
from icm_api.providers.choices import written
from icm_api.providers.registry import opens_unasked
from icm_api.run.compose import (
    TYPICAL_BYTES_PER_TOKEN,
    PromptSizes,
    Say,
    build_search,
    known_price,
    longest_prompt_tokens,
    measure_sizes,
    open_client,
    stated_price,
    why_unpriced,
)
from icm_api.run.job import Job, prepare
from icm_api.run.methods import BOOTSTRAP_DEMONSTRATIONS, Tools, open_method, sweep_settings
from icm_api.types import Capabilities, LabelScore

POOL = 256
"""Of the row `sweep --pool` where no other is asked for."""
SAMPLE = 32
"""Prompts that are built to tell what all prompts with so many labelled examples take."""
POOL_SIZES = 10
"""Sizes of the labelled pool at which they are; between these the tokens go straight."""
MEASURED_ASKS = ((64, 4.1), (256, 6.7))
"""(examples, label scores asked for each until the labels rest) of `anneal`, as benchmarks/README.md has them."""
FAVOURITE = 0.9
"""Probability of the label that the counting scorer favours."""

Kind: TypeAlias = Literal["exact", "expected", "at most", "at least"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one method would ask for, were nothing in the cache and no attempt repeated."""

    method: str
    """As it is asked for on the command line, such as `anneal --fidelity paper`."""
    kind: Kind
    """How the requests actually made relate to `requests`. Tokens are as good as `Plan.token_source` on top."""
    requests: int
    prompt_tokens: int
    cached_tokens: int | None
    """Of the prompt tokens, those that the host's prefix cache will hold at least; None: unknown."""
    output_tokens: int
    cost_usd: Decimal | None
    """None: unknown. Where `cached_tokens` is None, as if the host cached nothing."""
    note: str
    chosen: bool = False
    """The row that the settings as given ask for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An estimate for every method that can label the data."""

    estimates: tuple[Estimate, ...]
    token_source: str
    price: Price | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        rows = [asdict(row) | {"cost_usd": plain_usd(row.cost_usd)} for row in self.estimates]
        source = self.price.source if self.price else None
        return {"plan": rows, "token_source": self.token_source, "price_source": source, "notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class Outlook:
    """What an estimate rests on."""

    job: Job
    tools: Tools
    sizes: PromptSizes
    capabilities: Capabilities
    price: Price | None


ABOUT: Mapping[str, str] = {"exact": "", "expected": "about ", "at most": "at most ", "at least": "at least "}
"""How the requests of an estimate are told, by its kind."""


async def plan(config: RunConfig, environ: Mapping[str, str], say: Say | None = None) -> Plan:
    """Estimates for all methods, from the real texts. Nothing that is paid for is sent (counting tokens is free). Where
    nothing is asked at all, no key is needed.

    Raises an IcmError as a run with the same settings would.
    """
    stated_price(config)
    job = prepare(config)
    async with open_client(config, environ, say, keyless=True) as client:
        outlook = await look_out(job, client.provider)
        rows = [await _row(outlook, settings) for settings in _variants(job)]
    return Plan(tuple(rows), _token_source(outlook.sizes), outlook.price, tuple(_notes(outlook)))


async def look_out(job: Job, provider: Provider) -> Outlook:
    """Measure what estimates rest on; asks the provider for token counts only."""
    sizes = await measure_sizes(job, provider)
    price = known_price(job.config, provider.model, longest_prompt_tokens(job, provider, sizes))
    return Outlook(job, build_search(job, provider, sizes), sizes, provider.capabilities, price)


async def estimate(outlook: Outlook) -> Estimate:
    """What the method that the job names would ask for. The job's own context builder stays as it is."""
    config = outlook.job.config
    return _estimated(outlook, _name(config), await _SPENDS[config.method](outlook))


def estimate_queries(outlook: Outlook, name: str, queries: Sequence[Query]) -> Estimate:
    """What these questions would ask for, each alone; `name`: what they are for."""
    counter = _Counter(outlook.sizes, outlook.job.problem.n_labels, outlook.capabilities)
    for query in queries:
        counter.count(query)
    return _estimated(outlook, name, _Spend("exact", counter.requests, counter.prompt_tokens))


def _estimated(outlook: Outlook, name: str, spend: _Spend) -> Estimate:
    config = outlook.job.config
    draws = config.votes if outlook.capabilities.choices == "votes" else 1
    requests, prompt_tokens = draws * spend.requests, round(draws * spend.prompt_tokens)
    cached_tokens = None if spend.cached_tokens is None else min(prompt_tokens, round(draws * spend.cached_tokens))
    output_tokens = requests * _answer_tokens(outlook)
    return Estimate(
        method=name,
        kind=spend.kind,
        requests=requests,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        output_tokens=output_tokens,
        cost_usd=None
        if outlook.price is None
        else outlook.price.cost_usd(
            prompt_tokens=prompt_tokens, cached_tokens=cached_tokens or 0, output_tokens=output_tokens
        ),
        note=spend.note,
        chosen=True,
    )


def _answer_tokens(outlook: Outlook) -> int:
    """Of one reply: a single token where log-probabilities are asked for, else the longest label as it is written and
    all thoughts that there is room for."""
    if outlook.capabilities.choices is None:
        return 1
    longest = max(len(written(label.text).encode()) for label in outlook.job.task.labels)
    return math.ceil(longest / TYPICAL_BYTES_PER_TOKEN) + outlook.capabilities.thought_tokens


def in_words(planned: Estimate) -> str:
    """An estimate in one line, for the moment before money is spent."""
    cost = "cost unknown" if planned.cost_usd is None else dollars(planned.cost_usd)
    requests, tokens = f"{ABOUT[planned.kind]}{planned.requests:,}", f"{planned.prompt_tokens:,}"
    return f"plan: {requests} requests, about {tokens} prompt tokens, {cost} (were nothing in the cache)"


# --- the rows -------------------------------------------------------------------------------------------------


def _variants(job: Job) -> Iterator[dict[str, Any]]:
    """Settings of each row, over those given."""
    for method in ("zero-shot", "random-few-shot", "bootstrap"):
        yield {"method": method}
    for fidelity in ("reuse", "paper"):
        yield {"method": "anneal", "fidelity": fidelity}
    yield {"method": "sweep", "pool": None}
    pool = job.config.pool or POOL
    if pool < len(job.examples):
        yield {"method": "sweep", "pool": pool}
    if any(label is not None for label in job.dataset.gold or ()):
        yield {"method": GOLD_METHOD}


async def _row(outlook: Outlook, settings: Mapping[str, Any]) -> Estimate:
    given = outlook.job.config
    if given.pool is not None and given.pool >= len(outlook.job.examples):
        given = given.model_copy(update={"pool": None})  # the same search
    config = given.model_copy(update=dict(settings))
    own = {"sweep": "pool", "anneal": "fidelity"}.get(config.method, "method")
    chosen = config.method == given.method and getattr(config, own) == getattr(given, own)
    return replace(await estimate(replace(outlook, job=replace(outlook.job, config=config))), chosen=chosen)


def _name(config: RunConfig) -> str:
    if config.method == "anneal" and config.fidelity == "paper":
        return "anneal --fidelity paper"
    if config.method == "sweep" and config.pool is not None:
        return f"sweep --pool {config.pool}"
    return config.method


def _token_source(sizes: PromptSizes) -> str:
    if sizes.counted:
        return "counted by the host"
    return f"guessed, {TYPICAL_BYTES_PER_TOKEN:g} bytes of text a token (English prose), as the host does not count"


def _notes(outlook: Outlook) -> Iterator[str]:
    if outlook.price is None:
        yield f"the cost is unknown: {why_unpriced(outlook.job.config)}; state one with --price"
    if outlook.capabilities.prefix_slots is None:
        yield "what a prefix cache of the host would save is unknown, and not counted"
    if outlook.capabilities.choices == "votes":
        votes = outlook.job.config.votes
        yield f"the host tells no log-probabilities: each question is asked {votes} times (--votes), which is counted"
    elif not outlook.capabilities.exact_labels and outlook.capabilities.choices is None:
        yield "a label of several tokens may take a further request each time, which is not counted"
    if outlook.capabilities.thought_tokens:
        room = outlook.capabilities.thought_tokens
        yield f"the model thinks before it answers: {room:,} tokens are counted for each answer, the most it may write"
    if opens_unasked(outlook.job.config.provider):
        yield "nothing was asked of the host: whether it has this model, and takes the key, is not known yet"


# --- what the methods ask for ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Spend:
    kind: Kind
    requests: int
    prompt_tokens: float
    cached_tokens: float | None = None
    note: str = ""


async def _zero_shot(outlook: Outlook) -> _Spend:
    n = len(outlook.job.examples)
    return _Spend("exact", n, sum(map(outlook.sizes.query, range(n))))


async def _passes(outlook: Outlook) -> _Spend:
    return await _played(outlook, "exact")


async def _sweep(outlook: Outlook) -> _Spend:
    """The dearer of its two ways: on from examples asked alone, and back to asking alone; or, where a model is silent
    then, on from random labels."""
    note = (
        "all passes made, and a model that is silent at first or loses the concept among demonstrations allowed for; "
        "it ends earlier where labels settle or two restarts agree"
    )
    on, silent = [await _played(outlook, "at most", note, silent=silent) for silent in (False, True)]
    if not outlook.capabilities.prompt_logprobs:
        more = most_asked_alone(outlook.job.problem, sweep_settings(outlook.job), outlook.job.config.seed)
        each = (await _zero_shot(outlook)).prompt_tokens / len(outlook.job.examples)
        on = replace(on, requests=on.requests + more, prompt_tokens=on.prompt_tokens + more * each)
    return replace(
        on,
        requests=max(on.requests, silent.requests),
        prompt_tokens=max(on.prompt_tokens, silent.prompt_tokens),
        cached_tokens=None if on.cached_tokens is None else min(on.cached_tokens, silent.cached_tokens or 0.0),
    )


async def _played(outlook: Outlook, kind: Kind, note: str = "", *, silent: bool = False) -> _Spend:
    """Run the method on a scorer that asks nobody, and is `silent` where no label was shown. Rules and shares change
    labels, never questions, so no rule is obeyed and no share estimated, which would take most of the time."""
    problem = outlook.job.problem
    free = replace(problem, consistency=Consistency(problem.n_examples, problem.n_labels, ()))
    even = (1 / problem.n_labels,) * problem.n_labels  # under others the answers could settle, and passes be left out
    job = replace(outlook.job, problem=free, shares=even)
    counter = _Counter(outlook.sizes, problem.n_labels, outlook.capabilities, silent=silent)
    tools = replace(outlook.tools, scorer=counter, context=copy(outlook.tools.context))
    async with aclosing(open_method(job, tools)) as steps:
        async for _ in steps:
            pass
    return _Spend(kind, counter.requests, counter.prompt_tokens, counter.cached_tokens, note)


async def _bootstrap(outlook: Outlook) -> _Spend:
    n = len(outlook.job.examples)
    rounds = round_sizes(outlook.job.problem, outlook.job.config.max_demonstrations or BOOTSTRAP_DEMONSTRATIONS)
    siblings = outlook.job.problem.siblings
    tokens = [_mean_prompt(outlook, size, hidden=siblings) for size in rounds]
    bare = (await _zero_shot(outlook)).prompt_tokens
    return _Spend("exact", n * (1 + len(rounds)), bare + n * sum(tokens), note="tokens depend on the labels found")


async def _anneal(outlook: Outlook) -> _Spend:
    return _paper(outlook) if outlook.job.config.fidelity == "paper" else _reuse(outlook)


def _paper(outlook: Outlook) -> _Spend:
    """Algorithm 1 as it fills the pool: the seeds, then for each further example a proposal and all terms of U."""
    n_seeds, filled = _fill(outlook)
    pools = np.arange(n_seeds + 1, filled + 1)
    tokens = _prompts(outlook)
    return _Spend(
        "at least" if outlook.job.config.max_steps is None else "expected",  # it may stop before all have a label
        n_seeds + int((1 + pools).sum()),
        n_seeds * float(tokens(np.array([n_seeds]))[0]) + float(((1 + pools) * tokens(pools)).sum()),
        note="no example visited again, none rejected, no rule repaired",
    )


def _reuse(outlook: Outlook) -> _Spend:
    """A question a step. Examples never shown to others are asked once, when those that are have come to rest."""
    n, core = len(outlook.job.examples), len(outlook.tools.context.core)
    n_seeds, filled = _fill(outlook)
    sizes, asks_each = zip(*MEASURED_ASKS, strict=True)
    asks = round(core * float(np.interp(np.log(core), np.log(sizes), asks_each))) + n - core
    most = outlook.job.config.max_steps
    asks = max(filled, asks if most is None else min(asks, n_seeds + most))
    growing = _prompts(outlook)(np.arange(1, filled + 1))
    note = f"from the benchmark, {asks_each[0]:g} to {asks_each[-1]:g} questions an example"
    return _Spend("expected", asks, float(growing.sum() + (asks - filled) * growing[-1]), note=note)


def _fill(outlook: Outlook) -> tuple[int, int]:
    """(seeds, examples that get a label) of the search when each step labels a new example."""
    n, config = len(outlook.job.examples), outlook.job.config
    n_seeds = min(config.seeds, n)
    return n_seeds, n if config.max_steps is None else min(n, n_seeds + config.max_steps)


def _prompts(outlook: Outlook) -> Callable[[NDArray[np.int_]], Floats]:
    """Mean tokens of the prompt of a labelled example, by the number of examples that have a label."""
    sizes = np.unique(np.geomspace(1, len(outlook.job.examples), POOL_SIZES).round().astype(int))
    tokens = [_mean_prompt(outlook, size - 1) for size in sizes.tolist()]
    return lambda pools: np.interp(pools, sizes, tokens)


def _mean_prompt(outlook: Outlook, n_others: int, hidden: Sequence[frozenset[int]] | None = None) -> float:
    """Mean tokens over a sample of examples, each asked with `n_others` random others labelled (none of its `hidden`
    ones): what the context builder shows of these."""
    n, context = len(outlook.job.examples), copy(outlook.tools.context)
    counter = _Counter(outlook.sizes, outlook.job.problem.n_labels, outlook.capabilities)
    rng = np.random.default_rng([outlook.job.config.seed, n_others])
    asked = rng.permutation(n)[:SAMPLE].tolist()
    for example in asked:
        unseen = {example} | (hidden[example] if hidden else set())
        others = [i for i in rng.permutation(n).tolist() if i not in unseen][:n_others]
        labels: list[int | None] = [None] * n
        for place, other in enumerate(others):
            labels[other] = place % outlook.job.problem.n_labels
        counter.count(context.query(example, labels))
    return counter.prompt_tokens / len(asked)


_SPENDS: Mapping[Method, Callable[[Outlook], Awaitable[_Spend]]] = {
    "sweep": _sweep,
    "anneal": _anneal,
    "zero-shot": _zero_shot,
    "random-few-shot": _passes,
    "bootstrap": _bootstrap,
    GOLD_METHOD: _passes,
}


class _Counter:
    """A `core.context.Scorer` that counts what `PromptScorer` would ask and answers by itself: with another favourite
    each time, so that labels never settle, no two restarts agree and all passes are made."""

    chains_at_once = 1
    """Nobody waits for it; how many go side by side changes no question."""
    bounded = 0
    notes = ()

    def __init__(self, sizes: PromptSizes, n_labels: int, capabilities: Capabilities, *, silent: bool = False) -> None:
        self._sizes, self._n_labels = sizes, n_labels
        self.echoes = capabilities.prompt_logprobs
        self.requests = self._calls = 0
        self.prompt_tokens = 0.0
        self.cached_tokens = 0.0 if capabilities.prefix_slots and not self.echoes else None
        undecided = LabelScore((-np.log(n_labels),) * n_labels, 1.0, (False,) * n_labels)
        self._alone = [None if silent else undecided]  # it tells nothing, so that the search goes its whole way
        self._shown: tuple[tuple[int, int], ...] = ()
        self._shown_tokens = 0.0

    async def score(self, queries: Sequence[Query]) -> list[LabelScore]:
        for query in queries:
            self.count(query)
        return self._answers([query.example for query in queries])

    async def score_chains(self, chains: Sequence[Chain]) -> Sequence[Sequence[LabelScore | None]]:
        for chain in chains:
            self._count_chain(chain)
        self._calls += 1
        return [self._alone if len(chain.examples) == 1 else self._answers(chain.scored) for chain in chains]

    def count(self, query: Query) -> None:
        """One request for the label of an example."""
        if query.demonstrations is not self._shown:
            self._shown = query.demonstrations
            self._shown_tokens = sum(self._sizes.demonstration(i, k) for i, k in query.demonstrations)
        self.requests += 1
        self.prompt_tokens += self._shown_tokens + self._sizes.query(query.example)

    def _count_chain(self, chain: Chain) -> None:
        """One request by echo, else one for each example, whose prompt the host knows but for its last part."""
        before = accumulate((self._sizes.demonstration(i, k) for i, k in chain.examples), initial=0.0)
        prompts = [tokens + self._sizes.query(i) for tokens, (i, _) in zip(before, chain.examples, strict=False)]
        asked = prompts[chain.first :]
        if self.echoes:
            asked = asked[-1:]
        self.requests += len(asked)
        self.prompt_tokens += sum(asked)
        if self.cached_tokens is not None:
            self.cached_tokens += sum(asked[:-1])

    def _answers(self, examples: Sequence[int]) -> list[LabelScore]:
        rest = np.log((1 - FAVOURITE) / (self._n_labels - 1))
        scores = []
        for favourite in range(self._n_labels):
            logprobs = tuple(np.log(FAVOURITE) if k == favourite else rest for k in range(self._n_labels))
            scores.append(LabelScore(logprobs, 1.0, (False,) * self._n_labels))
        return [scores[hash((example, self._calls)) % self._n_labels] for example in examples]
