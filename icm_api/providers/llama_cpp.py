"""llama.cpp's own server through its native routes: every wanted label comes back exact.

Prompts go out as token ids, tokenised with special tokens off, so text in the data can never turn into control
tokens. Log-probabilities are of the whole softmax before sampling, whatever the sampler settings.
Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Self, TypeAlias, TypeVar, cast

import httpx2

from icm_api.errors import ConfigError, RequestError
from icm_api.providers.http import BoundedClient, Host, checked_api_key, checked_base_url, count
from icm_api.providers.listed import chat_candidates, floor_nats, nats
from icm_api.types import (
    Candidate,
    Capabilities,
    Json,
    NextTokenReply,
    NextTokenRequest,
    Request,
    TokenCountReply,
    TokenCountRequest,
    Usage,
)

R = TypeVar("R")
Ids: TypeAlias = tuple[int, ...]

NAME = "llama-cpp"
ADAPTER_VERSION = 2
"""Raise it when the same request would be asked or read in another way: it is part of the cache key."""
LISTED = 50
"""Candidates kept in a reply beside the wanted ones: replies are cached, and nobody reads further down."""
FORCING_BIAS = 100.0
"""Nats added to the one token that must be generated; the log-probability reported for it is the model's own."""
REMEMBERED_TEXTS = 16_384


class LlamaCpp:
    """A provider over one llama.cpp server. Made by `connect`, which learns what the server is."""

    def __init__(self, wire: _Wire, tokeniser: _Tokeniser, facts: Mapping[str, Json], *, top_k: int) -> None:
        self._wire, self._tokeniser, self._facts, self._top_k = wire, tokeniser, facts, top_k

    @classmethod
    async def connect(
        cls,
        *,
        base_url: str,
        model: str | None = None,
        timeout_s: float = 600,
        top_k: int = 1000,
        api_key: str | None = None,
        server: Mapping[str, Json] | None = None,
    ) -> Self:
        """Ask the server at `base_url` (its root) what it is, and check how it tokenises.

        `model`: the name the server must have (its alias or model file), None for any: a server answers for whatever
        it has loaded, so another name would go unnoticed. `top_k`: candidates to ask for before a label is asked for
        by itself. `server`: settings that whoever started the server knows (and `/props` does not tell); they take
        the address's place in the identity, so that answers keep when the port changes.
        Raises ConfigError for a bad argument and ProviderError; TransientError while the model loads.
        """
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {top_k}")
        url = checked_base_url(base_url).removesuffix("/v1")
        wire = _Wire(url, checked_api_key(api_key, url), model or "", timeout_s)
        try:
            facts = await _facts(wire)
            wire.name_model(_agreed_model(facts, model, wire.host))
            tokeniser = await _Tokeniser.learn(wire)
        except BaseException:
            await wire.aclose()
            raise
        where: dict[str, Json] = {"base_url": url} if server is None else {"server": dict(server)}
        told: dict[str, Json] = {**facts, **where, "bos": list(tokeniser.bos), "by_chunks": tokeniser.by_chunks}
        return cls(wire, tokeniser, told, top_k=top_k)

    @property
    def name(self) -> str:
        return NAME

    @property
    def model(self) -> str:
        return self._wire.host.model

    @property
    def identity(self) -> Mapping[str, Json]:
        versions: dict[str, Json] = {"adapter": NAME, "adapter_version": ADAPTER_VERSION, "top_k": self._top_k}
        return {**versions, **self._facts}

    @property
    def capabilities(self) -> Capabilities:
        context = count(self._facts.get("n_ctx"))
        return Capabilities(
            exact_labels=True,
            max_top_k=LISTED,
            continues_label=True,
            counts_tokens=True,
            plain_text_tokens=True,
            context_tokens=context - 1 if context else None,  # the server wants room for the token it generates
            prefix_slots=self._slots,
        )

    async def send(self, request: Request[R]) -> R:
        if isinstance(request, NextTokenRequest):
            return cast(R, await self._next_token(request))
        if isinstance(request, TokenCountRequest):
            counts = [len(await self._tokeniser.ids(text)) for text in request.texts]
            return cast(R, TokenCountReply(tuple(counts)))
        raise self._wire.host.incapable(f"{NAME} cannot answer {request.kind!r} requests")

    async def aclose(self) -> None:
        await self._wire.aclose()

    @property
    def _slots(self) -> int | None:
        return count(self._facts.get("total_slots")) or None

    def _slot(self, affinity: int | None) -> int | None:
        """The server's slot for an affinity, None for its own choice. It would wrap a number out of range unasked."""
        return None if affinity is None or self._slots is None else affinity % self._slots

    async def _next_token(self, request: NextTokenRequest) -> NextTokenReply:
        chunks = (*request.prompt.chunks, request.continuation)
        if not "".join(chunks):
            raise ValueError("an empty prompt has no next token")
        prompt, wanted = await self._tokeniser.split(chunks, request.wanted)
        tables, usage = await self._tables(prompt, _needed(wanted.values()), self._slot(request.affinity))
        root = tables[()]
        exact = [_wanted_candidate(text, ids, tables) for text, ids in wanted.items()]
        return NextTokenReply(
            candidates=_merged(exact, root.best),
            floor_nats=floor_nats(root.best),
            usage=usage,
            model=self.model,
        )

    async def _tables(
        self, prompt: Ids, needed: Mapping[Ids, set[int]], slot: int | None
    ) -> tuple[dict[Ids, _Table], Usage]:
        """The distribution after the prompt and each of the endings that the wanted continuations begin with."""
        endings = list(needed)
        replies = await self._wire.complete([prompt + ending for ending in endings], self._top_k, slot)
        usages = [_usage(reply) for reply in replies]
        tables = {ending: _Table.read(reply, self._wire.host) for ending, reply in zip(endings, replies, strict=True)}
        for ending in endings:
            for token_id in sorted(needed[ending] - tables[ending].logprobs.keys()):
                (reply,) = await self._wire.complete([prompt + ending], 1, slot, forced=token_id)
                usages.append(_usage(reply))
                tables[ending].logprobs[token_id] = _forced_nats(reply, token_id, self._wire.host)
        return tables, _summed(usages)


# --- which numbers a reply needs --------------------------------------------------------------------------


def _needed(wanted: Iterable[Ids]) -> dict[Ids, set[int]]:
    """For every proper beginning of the wanted id sequences (the empty one first): the ids that must follow it."""
    needed: dict[Ids, set[int]] = {(): set()}
    for ids in wanted:
        for k, token_id in enumerate(ids):
            needed.setdefault(ids[:k], set()).add(token_id)
    return needed


def _wanted_candidate(text: str, ids: Ids, tables: Mapping[Ids, _Table]) -> Candidate:
    """The continuation with the log-probabilities of all its tokens summed."""
    total = sum(tables[ids[:k]].logprobs[token_id] for k, token_id in enumerate(ids))
    return Candidate(text, total, ids[0] if len(ids) == 1 else None)


def _merged(exact: Sequence[Candidate], best: Sequence[Candidate]) -> tuple[Candidate, ...]:
    taken = {c.token_id for c in exact if c.token_id is not None}
    others = [c for c in best if c.token_id not in taken]
    return tuple(sorted((*exact, *others), key=lambda c: -c.logprob_nats))


def _forced_nats(reply: Mapping[str, Json], token_id: int, host: Host) -> float:
    positions = reply.get("completion_probabilities")
    first = positions[0] if isinstance(positions, list) and positions else None
    if not isinstance(first, dict) or first.get("id") != token_id:
        raise host.incapable(
            f"the server did not generate the label token {token_id} when told to (logit_bias): use a llama.cpp server "
            "from 2026 or later"
        )
    return nats(first.get("logprob"), host)


class _Table:
    """One position's listed tokens: all by id, and the best few as candidates."""

    __slots__ = ("best", "logprobs")

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.best = tuple(candidates[:LISTED])
        self.logprobs = {c.token_id: c.logprob_nats for c in candidates}

    @classmethod
    def read(cls, reply: Mapping[str, Json], host: Host) -> _Table:
        positions = reply.get("completion_probabilities")
        if not isinstance(positions, list) or not positions:
            raise host.incapable(
                "the reply has no completion_probabilities: the server is too old, or something before it drops n_probs"
            )
        candidates = chat_candidates(positions, host)
        if any(c.token_id is None for c in candidates):
            raise host.incapable("the reply lists candidates without token ids: use a newer llama.cpp server")
        return cls(candidates)


# --- usage ------------------------------------------------------------------------------------------------


def _usage(reply: Mapping[str, Json]) -> Usage:
    """`timings.cache_n` and `prompt_n` are the true split; `tokens_cached` counts the slot's whole content."""
    timings = reply.get("timings")
    told = timings if isinstance(timings, dict) else {}
    cached, evaluated = count(told.get("cache_n")), count(told.get("prompt_n"))
    total = None if cached is None or evaluated is None else cached + evaluated
    return Usage(total, cached, count(told.get("predicted_n")))


def _summed(usages: Sequence[Usage]) -> Usage:
    return Usage(
        _sum_known([u.prompt_tokens for u in usages]),
        _sum_known([u.cached_tokens for u in usages]),
        _sum_known([u.output_tokens for u in usages]),
    )


def _sum_known(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


# --- tokens -----------------------------------------------------------------------------------------------


class _Tokeniser:
    """Text to token ids by the server, each distinct text asked once (the oldest are forgotten)."""

    _TYPICAL = ("Text: a\nLabel:", " True", "\n\nText: b\nLabel:")

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._memory: OrderedDict[str, Ids] = OrderedDict()
        self.bos: Ids = ()
        """Ids the model wants before every prompt; id prompts get none from the server."""
        self.by_chunks = True
        """Chunks tokenised alone give the ids of the whole; untrue for vocabularies that mark the start of a text."""

    @classmethod
    async def learn(cls, wire: _Wire) -> Self:
        tokeniser = cls(wire)
        parts = [await tokeniser.ids(text) for text in cls._TYPICAL]
        whole = await wire.tokenise("".join(cls._TYPICAL))
        tokeniser.by_chunks = sum(parts, ()) == whole
        tokeniser.bos = _before(whole, await wire.tokenise("".join(cls._TYPICAL), add_special=True), wire.host)
        return tokeniser

    async def ids(self, text: str) -> Ids:
        """The text's own ids, special tokens not parsed."""
        if not text:
            return ()
        if text not in self._memory:
            self._memory[text] = await self._wire.tokenise(text)
            if len(self._memory) > REMEMBERED_TEXTS:
                self._memory.popitem(last=False)
        return self._memory[text]

    async def split(self, chunks: Sequence[str], wanted: Sequence[str]) -> tuple[Ids, dict[str, Ids]]:
        """Ids of the prompt (with BOS), and of each wanted continuation after it."""
        if "" in wanted:
            raise ValueError("an empty continuation has no probability")
        split = self._by_chunks if self.by_chunks else self._by_difference
        prompt, continuations = await split(chunks, wanted)
        self._check_apart(continuations)
        return self.bos + prompt, continuations

    def _check_apart(self, continuations: Mapping[str, Ids]) -> None:
        for (short, few), (long, many) in itertools.permutations(continuations.items(), 2):
            if many[: len(few)] == few:
                raise self._wire.host.incapable(
                    f"in this model's tokens {long!r} begins with all of {short!r}, so the shorter label's probability "
                    "holds the longer one's: use labels that begin differently"
                )

    async def _by_chunks(self, chunks: Sequence[str], wanted: Sequence[str]) -> tuple[Ids, dict[str, Ids]]:
        prompt = [token_id for chunk in chunks for token_id in await self.ids(chunk)]
        return tuple(prompt), {text: await self.ids(text) for text in wanted}

    async def _by_difference(self, chunks: Sequence[str], wanted: Sequence[str]) -> tuple[Ids, dict[str, Ids]]:
        prompt_text = "".join(chunks)
        prompt = await self._wire.tokenise(prompt_text)
        continuations = {}
        for text in wanted:
            whole = await self._wire.tokenise(prompt_text + text)
            if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
                raise self._wire.host.incapable(
                    f"the label {text!r} merges with the end of the prompt in this model's tokens, so it has no "
                    "probability of its own: end the template differently (no trailing blank) or change the label"
                )
            continuations[text] = whole[len(prompt) :]
        return prompt, continuations


def _before(plain: Ids, special: Ids, host: Host) -> Ids:
    """The ids that precede the plain ones when special tokens are added (some models add others at the end)."""
    for start in range(len(special) - len(plain) + 1):
        if special[start : start + len(plain)] == plain:
            return special[:start]
    raise host.incapable("the server tokenises a text differently when it adds special tokens: BOS cannot be told")


# --- the server -------------------------------------------------------------------------------------------


class _Wire:
    """The server's native routes as JSON in, JSON out."""

    def __init__(self, base_url: str, api_key: str | None, model: str, timeout_s: float) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else None
        self._client = BoundedClient(base_url=base_url, timeout_s=timeout_s, headers=headers)
        self._api_key = api_key
        self._base_url = base_url
        self.name_model(model)

    def name_model(self, model: str) -> None:
        hint = f"start a server there (`llama-server -m model.gguf`) and check {self._base_url}/health"
        self.host = Host(provider=NAME, model=model, base_url=self._base_url, hint=hint, api_key=self._api_key)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def get(self, path: str) -> Mapping[str, Json]:
        return self.host.mapping(await self._exchange("GET", path, None))

    async def tokenise(self, text: str, *, add_special: bool = False) -> Ids:
        body: Json = {"content": text, "add_special": add_special, "parse_special": False}
        tokens = self.host.mapping(await self._exchange("POST", "/tokenize", body)).get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(t, int) for t in tokens) or (text and not tokens):
            raise self.host.incapable(f"the server gave no token ids for {text[:40]!r}")
        return tuple(cast(list[int], tokens))

    async def complete(
        self, prompts: Sequence[Ids], n_probs: int, slot: int | None, *, forced: int | None = None
    ) -> list[Mapping[str, Json]]:
        """One request for several prompts; replies in their order. `slot`: where they are answered (None: anywhere).

        `forced`: the token to generate, for its own log-probability however unlikely it is. From an empty cache: a
        prompt that is wholly cached is evaluated as a batch of one token by other kernels, which can move just such
        unlikely tokens by 0.4 nats.
        """
        body: dict[str, Json] = {
            "prompt": [list(ids) for ids in prompts],
            "n_predict": 1,
            "n_probs": n_probs,
            "temperature": 0,
            "cache_prompt": forced is None,
        }
        if forced is not None:
            body["logit_bias"] = [[forced, FORCING_BIAS]]
        if slot is not None:
            body["id_slot"] = slot
        document = self.host.document(await self._exchange("POST", "/completion", body))
        replies = document if isinstance(document, list) else [document]
        return self._in_order(replies, prompts)

    def _in_order(self, replies: Sequence[Json], prompts: Sequence[Ids]) -> list[Mapping[str, Json]]:
        found = {count(reply.get("index")): reply for reply in replies if isinstance(reply, dict)}
        if len(replies) != len(prompts) or set(found) != set(range(len(prompts))):
            raise self.host.incapable(f"{len(prompts)} prompts were asked, and the replies do not match them")
        ordered: list[Mapping[str, Json]] = [found[k] for k in range(len(prompts))]
        for reply, ids in zip(ordered, prompts, strict=True):
            read = count(reply.get("tokens_evaluated"))
            if read is None:
                raise self.host.incapable("the reply lacks tokens_evaluated, so nobody knows if the prompt was cut")
            if read != len(ids):
                raise self.host.incapable(f"the server read {read} tokens of a prompt of {len(ids)}: it was cut")
        return ordered

    async def _exchange(self, method: str, path: str, body: Json) -> httpx2.Response:
        try:
            return await self._client.request(method, path, json=body)
        except httpx2.RequestError as error:
            raise self.host.unreachable(error) from None


async def _facts(wire: _Wire) -> dict[str, Json]:
    """What the server tells about itself that can change an answer."""
    props = await wire.get("/props")
    settings = props.get("default_generation_settings")
    told = settings if isinstance(settings, dict) else {}
    params = told.get("params")
    return {
        "model": _model_name(props, wire.host),
        "model_file": _basename(props.get("model_path")),
        "model_meta": await _model_meta(wire),
        "n_ctx": told.get("n_ctx"),
        "total_slots": props.get("total_slots"),
        "build": props.get("build_info"),
        "lora": params.get("lora") if isinstance(params, dict) else None,
        "speculative": params.get("speculative.types") if isinstance(params, dict) else None,
    }


async def _model_meta(wire: _Wire) -> Json:
    """Vocabulary, size and number type of the model: they tell models apart that share a file name."""
    models = (await wire.get("/v1/models")).get("data")
    first = models[0] if isinstance(models, list) and models else None
    return first.get("meta") if isinstance(first, dict) else None


def _model_name(props: Mapping[str, Json], host: Host) -> str:
    """The alias when one was given (without one the server repeats the path), else the file's name."""
    alias, path = props.get("model_alias"), props.get("model_path")
    name = alias if isinstance(alias, str) and alias and alias != path else _basename(path)
    if not name:
        raise host.incapable("/props names no model: this is not a llama.cpp server, or it is a router")
    return name


def _basename(path: Json) -> str | None:
    """Only the file's name: a home directory has no place in a cache key or a report."""
    return re.split(r"[\\/]", path)[-1] if isinstance(path, str) else None


def _agreed_model(facts: Mapping[str, Json], asked: str | None, host: Host) -> str:
    name, file = str(facts["model"]), str(facts["model_file"])
    if asked not in (None, name, file, file.removesuffix(".gguf")):
        raise RequestError(
            f"the server at {host.base_url} has loaded {name!r}, not {asked!r}: leave the model out or start another",
            provider=NAME,
            model=str(asked),
        )
    return name
