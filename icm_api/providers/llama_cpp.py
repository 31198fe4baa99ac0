"""llama.cpp's own server through its native routes: every wanted label comes back exact.

Prompts go out as token ids, tokenised with special tokens off, so text in the data can never turn into control
tokens. Log-probabilities are of the whole softmax before sampling, whatever the sampler settings.
Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Self, TypeVar, cast

from icm_api.errors import ConfigError, RequestError
from icm_api.providers.http import Host, count
from icm_api.providers.listed import chat_candidates, nats
from icm_api.providers.native import NativeServer, token_ids
from icm_api.providers.tokens import Ids, Logprobs, Table, Tokeniser, merged, needed, summed, whole
from icm_api.types import (
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

NAME = "llama-cpp"
ADAPTER_VERSION = 2
"""Raise it when the same request would be asked or read in another way: it is part of the cache key."""
LISTED = 50
"""Candidates kept in a reply beside the wanted ones: replies are cached, and nobody reads further down."""
FORCING_BIAS = 100.0
"""Nats added to the one token that must be generated; the log-probability reported for it is the model's own."""


class LlamaCpp:
    """A provider over one llama.cpp server. Made by `connect`, which learns what the server is."""

    def __init__(self, server: _Server, tokeniser: Tokeniser, facts: Mapping[str, Json], *, top_k: int) -> None:
        self._server, self._tokeniser, self._facts, self._top_k = server, tokeniser, facts, top_k

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
        llama = _Server(base_url, api_key, model, timeout_s)
        try:
            facts = await llama.learn(model)
            tokeniser = await Tokeniser.learn(llama)
        except BaseException:
            await llama.aclose()
            raise
        where: dict[str, Json] = {"base_url": llama.host.base_url} if server is None else {"server": dict(server)}
        told: dict[str, Json] = {**facts, **where, "bos": list(tokeniser.bos), "by_chunks": tokeniser.by_chunks}
        return cls(llama, tokeniser, told, top_k=top_k)

    @property
    def name(self) -> str:
        return NAME

    @property
    def model(self) -> str:
        return self._server.host.model

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
        raise self._server.host.incapable(f"{NAME} cannot answer {request.kind!r} requests")

    async def aclose(self) -> None:
        await self._server.aclose()

    @property
    def _slots(self) -> int | None:
        return count(self._facts.get("total_slots")) or None

    def _slot(self, affinity: int | None) -> int | None:
        """The server's slot for an affinity, None for its own choice. It would wrap a number out of range unasked."""
        return None if affinity is None or self._slots is None else affinity % self._slots

    async def _next_token(self, request: NextTokenRequest) -> NextTokenReply:
        chunks = (*request.prompt.chunks, request.continuation)
        prompt, wanted = await self._tokeniser.split(chunks, request.wanted)
        root, values, usage = await self._asked(prompt, needed(wanted.values()), self._slot(request.affinity))
        exact = [whole(text, ids, values) for text, ids in wanted.items()]
        return NextTokenReply(
            candidates=merged([c for c in exact if c is not None], root.best),
            floor_nats=root.floor,
            usage=usage,
            model=self.model,
        )

    async def _asked(
        self, prompt: Ids, following: Mapping[Ids, set[int]], slot: int | None
    ) -> tuple[Table, Mapping[Ids, Logprobs], Usage]:
        """What may come after the prompt, and every number that is needed (see `needed`): those that are not listed
        are asked for one by one."""
        replies = await self._server.complete([prompt + ending for ending in following], self._top_k, slot)
        usages = [_usage(reply) for reply in replies]
        tables = [_table(reply, self._server.host) for reply in replies]
        values = {ending: dict(table.logprobs) for ending, table in zip(following, tables, strict=True)}
        for ending, ids in following.items():
            for token_id in sorted(ids - values[ending].keys()):
                (reply,) = await self._server.complete([prompt + ending], 1, slot, forced=token_id)
                usages.append(_usage(reply))
                values[ending][token_id] = _forced_nats(reply, token_id, self._server.host)
        return tables[0], values, summed(usages)


# --- what replies say -------------------------------------------------------------------------------------


def _table(reply: Mapping[str, Json], host: Host) -> Table:
    """The listed tokens: all by id, and the best few as candidates."""
    positions = reply.get("completion_probabilities")
    if not isinstance(positions, list) or not positions:
        raise host.incapable(
            "the reply has no completion_probabilities: the server is too old, or something before it drops n_probs"
        )
    candidates = chat_candidates(positions, host)
    values = {c.token_id: c.logprob_nats for c in candidates if c.token_id is not None}
    if any(c.token_id is None for c in candidates):
        raise host.incapable("the reply lists candidates without token ids: use a newer llama.cpp server")
    return Table(candidates[:LISTED], values)


def _forced_nats(reply: Mapping[str, Json], token_id: int, host: Host) -> float:
    positions = reply.get("completion_probabilities")
    first = positions[0] if isinstance(positions, list) and positions else None
    if not isinstance(first, dict) or first.get("id") != token_id:
        raise host.incapable(
            f"the server did not generate the label token {token_id} when told to (logit_bias): use a llama.cpp server "
            "from 2026 or later"
        )
    return nats(first.get("logprob"), host)


def _usage(reply: Mapping[str, Json]) -> Usage:
    """`timings.cache_n` and `prompt_n` are the true split; `tokens_cached` counts the slot's whole content."""
    timings = reply.get("timings")
    told = timings if isinstance(timings, dict) else {}
    cached, evaluated = count(told.get("cache_n")), count(told.get("prompt_n"))
    total = None if cached is None or evaluated is None else cached + evaluated
    return Usage(total, cached, count(told.get("predicted_n")))


# --- the server -------------------------------------------------------------------------------------------


class _Server(NativeServer):
    provider = NAME
    hint = "start it with `llama-server -m model.gguf` and check that its /health answers"

    async def learn(self, asked: str | None) -> dict[str, Json]:
        """What the server tells about itself that can change an answer; `asked`: the model it must have."""
        facts = await _facts(self)
        self.name_model(_agreed_model(facts, asked, self.host))
        return facts

    async def tokenise(self, text: str, *, add_special: bool = False) -> Ids:
        body: Json = {"content": text, "add_special": add_special, "parse_special": False}
        response = await self.response("/tokenize", body)
        return token_ids(self.host.mapping(response).get("tokens"), text, self.host)

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
        document = await self.post("/completion", body)
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


async def _facts(server: _Server) -> dict[str, Json]:
    """What the server tells about itself that can change an answer."""
    props = await server.get("/props")
    settings = props.get("default_generation_settings")
    told = settings if isinstance(settings, dict) else {}
    params = told.get("params")
    return {
        "model": _model_name(props, server.host),
        "model_file": _basename(props.get("model_path")),
        "model_meta": await _model_meta(server),
        "n_ctx": told.get("n_ctx"),
        "total_slots": props.get("total_slots"),
        "build": props.get("build_info"),
        "lora": params.get("lora") if isinstance(params, dict) else None,
        "speculative": params.get("speculative.types") if isinstance(params, dict) else None,
    }


async def _model_meta(server: _Server) -> Json:
    """Vocabulary, size and number type of the model: they tell models apart that share a file name."""
    models = (await server.get("/v1/models")).get("data")
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
