"""SGLang through its native `/generate`: every wanted label comes back exact, also at each place of a sequence.

Prompts go out as token ids and labels are named by id (`token_ids_logprob`). At temperature 0 the server reports the
model's own distribution; at any but 0 and 1 it would report a tempered one. Of a sequence only the part from the first
scored label on is asked for, so that the radix cache serves all before it. `/v1/score` is not used: it tells less
(named tokens after one text, no other tokens, so no mass and no spellings).
Source: https://docs.sglang.ai/basic_usage/native_api.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self, TypeVar, cast

from icm_api.errors import ConfigError, RequestError
from icm_api.providers.http import count
from icm_api.providers.listed import nats
from icm_api.providers.native import NativeServer, agreed_name, public_name, token_ids
from icm_api.providers.tokens import Ids, Logprobs, Pieces, Place, Table, Tokeniser, merged, needed, whole
from icm_api.types import (
    Capabilities,
    Json,
    NextTokenReply,
    NextTokenRequest,
    Position,
    Request,
    SequenceReply,
    SequenceRequest,
    TokenCountReply,
    TokenCountRequest,
    Usage,
)

R = TypeVar("R")

NAME = "sglang"
ADAPTER_VERSION = 1
"""Raise it when the same request would be asked or read in another way: it is part of the cache key."""
_SAMPLE = "Claim: water is wet.\nThis claim is true"
_TOLD = (
    "version",
    "revision",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "attention_backend",
    "sampling_backend",
    "speculative_algorithm",
    "enable_deterministic_inference",
)
"""Settings of the server that can change an answer. It tells many more, some of them secret."""


class Sglang:
    """A provider over one SGLang server. Made by `connect`, which learns what the server is."""

    def __init__(
        self,
        server: _Server,
        tokeniser: Tokeniser,
        pieces: Pieces,
        facts: Mapping[str, Json],
        *,
        top_k: int,
        echo: bool,
    ) -> None:
        self._server, self._tokeniser, self._pieces = server, tokeniser, pieces
        self._facts, self._top_k, self._echo = facts, top_k, echo

    @classmethod
    async def connect(
        cls,
        *,
        base_url: str,
        model: str | None = None,
        timeout_s: float = 600,
        top_k: int = 20,
        api_key: str | None = None,
        echo: bool = True,
    ) -> Self:
        """Ask the server at `base_url` (its root) what it is, and check how it tokenises.

        `model`: the name that the server must have, None for any. `top_k`: candidates to list beside the labels.
        `echo`: ask for whole sequences. Raises ConfigError for a bad argument and ProviderError.
        """
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {top_k}")
        server = _Server(base_url, api_key, model, timeout_s)
        try:
            facts = await server.learn(model)
            tokeniser = await Tokeniser.learn(server)
            sample = await tokeniser.ids(_SAMPLE)
        except BaseException:
            await server.aclose()
            raise
        facts |= {"bos": list(tokeniser.bos), "by_chunks": tokeniser.by_chunks}
        return cls(server, tokeniser, Pieces(sample, server.decode), facts, top_k=top_k, echo=echo)

    @property
    def name(self) -> str:
        return NAME

    @property
    def model(self) -> str:
        return self._server.host.model

    @property
    def identity(self) -> Mapping[str, Json]:
        asked: dict[str, Json] = {"top_k": self._top_k, "temperature": 0, "base_url": self._server.host.base_url}
        return {"adapter": NAME, "adapter_version": ADAPTER_VERSION, **asked, **self._facts}

    @property
    def capabilities(self) -> Capabilities:
        context = count(self._facts["context_tokens"])
        return Capabilities(
            exact_labels=True,
            max_top_k=self._top_k,
            continues_label=True,
            counts_tokens=True,
            plain_text_tokens=False,  # its tokeniser reads special tokens written in a text
            context_tokens=context - 1 if context else None,  # one token is generated
            prompt_logprobs=self._echo,
        )

    async def send(self, request: Request[R]) -> R:
        if isinstance(request, NextTokenRequest):
            return cast(R, await self._next_token(request))
        if isinstance(request, SequenceRequest) and self._echo:
            return cast(R, await self._sequence(request))
        if isinstance(request, TokenCountRequest):
            counts = [len(await self._tokeniser.ids(text)) for text in request.texts]
            return cast(R, TokenCountReply(tuple(counts)))
        raise self._server.host.incapable(f"{NAME} cannot answer {request.kind!r} requests")

    async def aclose(self) -> None:
        await self._server.aclose()

    async def _next_token(self, request: NextTokenRequest) -> NextTokenReply:
        chunks = (*request.prompt.chunks, request.continuation)
        prompt, wanted = await self._tokeniser.split(chunks, request.wanted)
        following = needed(wanted.values())
        named = sorted(set().union(*following.values()))
        replies = await self._server.generate([prompt + ending for ending in following], self._top_k, named)
        tables = [reply.table for reply in replies]
        values = {ending: table.logprobs for ending, table in zip(following, tables, strict=True)}
        (root,) = await self._pieces.worded(tables[:1])
        exact = [whole(text, ids, values) for text, ids in wanted.items()]
        candidates = merged([c for c in exact if c is not None], root.best)
        return NextTokenReply(candidates, root.floor, _usage(replies), self.model)

    async def _sequence(self, request: SequenceRequest) -> SequenceReply:
        prompt, wanted = await self._tokeniser.split(request.prompt.chunks, request.wanted)
        places = await self._tokeniser.places(request.prompt, request.first)
        named = sorted({ids[0] for ids in wanted.values()} | {place.ids[0] for place in places})
        # Before the first place nothing is known of its token, so one place earlier. With no place: nothing.
        start = max(places[0].start - 1, 0) if places else None
        (reply,) = await self._server.generate([prompt], self._top_k, named, start=start)
        tables = [reply.prompt_table(place) for place in places]
        *shown, last = await self._pieces.worded([*tables, reply.table])
        positions = [
            place.position(table, reply.prompt_parts(place), wanted) for place, table in zip(places, shown, strict=True)
        ]
        exact = [whole(text, ids, {(): last.logprobs}) for text, ids in wanted.items() if len(ids) == 1]
        end = Position(merged([c for c in exact if c is not None], last.best), last.floor)
        return SequenceReply((*positions, end), _usage([reply]), self.model)


class _Reply:
    """What the server said about one prompt (`meta_info`)."""

    def __init__(self, server: _Server, prompt: Ids, meta: Mapping[str, Json]) -> None:
        self._server, self._prompt, self.meta = server, prompt, meta
        read = count(meta.get("prompt_tokens"))
        if read != len(prompt):
            raise server.host.incapable(f"the server read {read} tokens of a prompt of {len(prompt)}: it was cut")

    @property
    def table(self) -> Table:
        """For the token after the prompt."""
        listed = self._first("output_top_logprobs")
        named = self._first("output_token_ids_logprobs") if self.meta.get("output_token_ids_logprobs") else {}
        return Table.of(listed, named, self._server.host)

    def _first(self, name: str) -> Logprobs:
        rows = self.meta.get(name)
        if not isinstance(rows, list) or not rows:
            raise self._server.host.incapable(f"the reply has no {name}: return_logprob was ignored")
        return self._row(rows[0], name)

    def prompt_table(self, place: Place) -> Table:
        """Where a label begins."""
        rows = [self._prompt_row(name, place.start) for name in ("input_top_logprobs", "input_token_ids_logprobs")]
        return Table.of(rows[0], rows[1], self._server.host)

    def prompt_parts(self, place: Place) -> list[float]:
        """Log-probability of each token of the label that stands there."""
        entries, before = self._covered()
        return [nats(_field(entries[place.start + k - before], 0), self._server.host) for k in range(len(place.ids))]

    def _prompt_row(self, name: str, place: int) -> Logprobs:
        """A row of one of the lists over the prompt, which stand side by side with the prompt's tokens."""
        entries, before = self._covered()
        rows = self.meta.get(name)
        if not isinstance(rows, list) or len(rows) != len(entries) or place < before:
            raise self._server.host.incapable(f"{name} does not cover the label at token {place}")
        return self._row(rows[place - before], name)

    def _covered(self) -> tuple[list[Json], int]:
        """The prompt's tokens that the reply speaks of, and how many stand before them.

        Found by their ids: versions differ in where they begin.
        """
        entries = self.meta.get("input_token_logprobs")
        if not isinstance(entries, list) or not 0 < len(entries) <= len(self._prompt):
            raise self._server.host.incapable("the reply has no input_token_logprobs: the prompt was not scored")
        before = len(self._prompt) - len(entries)
        if tuple(_field(entry, 1) for entry in entries) != self._prompt[before:]:
            raise self._server.host.incapable("input_token_logprobs are not of the prompt's last tokens")
        return entries, before

    def _row(self, row: Json, name: str) -> Logprobs:
        """`[[logprob, id, text], ...]`; no number (null) stands for minus infinity and is left out."""
        if not isinstance(row, list):
            raise self._server.host.incapable(f"{name} has no list where a label stands")
        pairs = [(_field(entry, 1), _field(entry, 0)) for entry in row]
        return {self._id(k): nats(value, self._server.host) for k, value in pairs if value is not None}

    def _id(self, value: Json) -> int:
        if not isinstance(value, int):
            raise self._server.host.incapable("a listed log-probability has no token id")
        return value


def _field(entry: Json, k: int) -> Json:
    return entry[k] if isinstance(entry, list) and len(entry) > k else None


def _usage(replies: Sequence[_Reply]) -> Usage:
    def total(name: str) -> int | None:
        told = [count(reply.meta.get(name)) for reply in replies]
        known = [value for value in told if value is not None]
        return sum(known) if len(known) == len(told) else None

    return Usage(total("prompt_tokens"), total("cached_tokens"), total("completion_tokens"))


# --- the server -------------------------------------------------------------------------------------------


class _Server(NativeServer):
    provider = NAME
    hint = "start a server there (`python -m sglang.launch_server --model-path MODEL`) and check base_url"

    async def learn(self, asked: str | None) -> dict[str, Json]:
        """What the server tells about itself that can change an answer."""
        info = await self._either("/model_info", "/get_model_info")
        settings = await self._either("/server_info", "/get_server_info")
        served = [name for name in (info.get("served_model_name"), info.get("model_path")) if isinstance(name, str)]
        if not served:
            raise self.host.incapable("/model_info names no model: this is not an SGLang server")
        name = agreed_name(served, asked, self.host)
        self.name_model(public_name(name) or name)
        if info.get("is_generation") is False:
            raise self.host.incapable("the server has loaded a model that does not generate text")
        return {
            "model": self.host.model,
            "model_path": public_name(info.get("model_path")),
            "weight_version": info.get("weight_version"),
            "preferred_sampling_params": info.get("preferred_sampling_params"),
            "context_tokens": await self._context(settings),
            "settings": {key: settings.get(key) for key in _TOLD},
        }

    async def _context(self, settings: Mapping[str, Json]) -> int | None:
        cards = (await self.get("/v1/models")).get("data")
        card = cards[0] if isinstance(cards, list) and cards else None
        told = [card.get("max_model_len") if isinstance(card, dict) else None, settings.get("max_req_input_len")]
        return min((number for number in map(count, told) if number), default=None)

    async def _either(self, path: str, old: str) -> Mapping[str, Json]:
        """Servers before 2026 know only the old path; it is going away."""
        try:
            return await self.get(path)
        except RequestError:
            return await self.get(old)

    async def tokenise(self, text: str, *, add_special: bool = False) -> Ids:
        reply = await self.post("/tokenize", {"prompt": text, "add_special_tokens": add_special})
        return token_ids(reply.get("tokens") if isinstance(reply, dict) else None, text, self.host)

    async def decode(self, parts: Sequence[Ids]) -> list[str]:
        reply = await self.post("/detokenize", {"tokens": [list(ids) for ids in parts], "skip_special_tokens": False})
        texts = reply.get("text") if isinstance(reply, dict) else None
        if not isinstance(texts, list) or len(texts) != len(parts):
            raise self.host.incapable("the server does not tell the text of its tokens (/detokenize)")
        return [str(text) for text in texts]

    async def generate(
        self, prompts: Sequence[Ids], top_k: int, named: Sequence[int], *, start: int | None = None
    ) -> list[_Reply]:
        """One request for several prompts, one generated token each; replies in their order. `start`: the first token
        of the prompt to score, None: none."""
        body: dict[str, Json] = {
            "input_ids": [list(ids) for ids in prompts],
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": -1 if start is None else start,
            "top_logprobs_num": top_k,
        }
        if named:
            body["token_ids_logprob"] = [list(named) for _ in prompts]
        replies = await self.post("/generate", body)
        metas = (
            [reply.get("meta_info") for reply in replies if isinstance(reply, dict)]
            if isinstance(replies, list)
            else []
        )
        if len(metas) != len(prompts):
            raise self.host.incapable(f"{len(prompts)} prompts were asked, and the replies do not match them")
        return [
            _Reply(self, ids, meta if isinstance(meta, dict) else {}) for ids, meta in zip(prompts, metas, strict=True)
        ]
