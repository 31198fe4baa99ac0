"""vLLM through its own parameters: every wanted label comes back exact, whatever its rank.

Prompts go out as token ids. The likeliest tokens come in one request; a label outside that list is forced
(`allowed_token_ids`, a request a token, served from the prefix cache), or where that is not obeyed put after the prompt
and read from its prompt log-probs. Log-probabilities are those before sampling and before the forcing (vLLM's default,
`--logprobs-mode raw_logprobs`).
`logprob_token_ids` and `/generative_scoring` are not used, although one request would name many labels: while either is
being answered, vLLM's V1 sampler takes the lists of likeliest tokens from all others (pull request 51789, seen on
0.32.0). Lists that another client spoils in that way are noticed and asked for again.
Source: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self, TypeVar, cast

from icm_api.errors import CapabilityError, ConfigError, RequestError, TransientError
from icm_api.providers.http import count, openai_usage, whole_number
from icm_api.providers.listed import SENTINEL_NATS, nats
from icm_api.providers.native import NativeServer, agreed_name, public_name, token_ids
from icm_api.providers.tokens import Ids, Pieces, Place, Table, Tokeniser, merged, needed, summed, whole
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
Exact = Literal["forced", "appended"]
"""How labels that are not listed are scored: as the only token allowed, or put after the prompt."""

NAME = "vllm"
ADAPTER_VERSION = 2
"""Raise it when the same request would be asked or read in another way: it is part of the cache key."""
_SAMPLE = "Claim: water is wet.\nThis claim is true"


class Vllm:
    """A provider over one vLLM server. Made by `connect`, which learns what the server is and can do."""

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
        """Ask the server at `base_url` what it is, how it tokenises and which log-probs it can give.

        `model`: a name that it serves (also of a LoRA adapter); None: its first. `top_k`: candidates to list, at most
        the server's `--max-logprobs` (20 unless set). `echo`: ask for whole sequences where it gives prompt log-probs.
        Raises ConfigError for a bad argument and ProviderError.
        """
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {top_k}")
        server = _Server(base_url, api_key, model, timeout_s)
        try:
            facts = await server.learn(model)
            tokeniser = await Tokeniser.learn(server)
            sample = await tokeniser.ids(_SAMPLE)
            scores_prompts = await _scores_prompts(server, tokeniser.bos + sample)
            facts["exact"] = await _exact(server, tokeniser.bos + sample, scores_prompts)
        except BaseException:
            await server.aclose()
            raise
        facts |= {"bos": list(tokeniser.bos), "by_chunks": tokeniser.by_chunks}
        pieces = Pieces(sample, server.decode)
        return cls(server, tokeniser, pieces, facts, top_k=top_k, echo=echo and scores_prompts)

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
            exact_labels=self._exact is not None,
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

    @property
    def _exact(self) -> Exact | None:
        return cast(Exact | None, self._facts["exact"])

    # --- the next token

    async def _next_token(self, request: NextTokenRequest) -> NextTokenReply:
        chunks = (*request.prompt.chunks, request.continuation)
        prompt, wanted = await self._tokeniser.split(chunks, request.wanted)
        following = needed(wanted.values())
        choices, usage = await self._server.complete([prompt + ending for ending in following], logprobs=self._top_k)
        tables = [self._server.table(choice) for choice in choices]
        values = {ending: dict(table.logprobs) for ending, table in zip(following, tables, strict=True)}
        missing = [(e, k) for e, ids in following.items() for k in sorted(ids - values[e].keys())]
        more = await self._unlisted(prompt, missing, values) if missing else []
        (root,) = await self._pieces.worded(tables[:1])
        exact = [whole(text, ids, values) for text, ids in wanted.items()]
        return NextTokenReply(
            candidates=merged([c for c in exact if c is not None], root.best),
            floor_nats=root.floor,
            usage=summed([usage, *more]),
            model=self.model,
        )

    async def _unlisted(
        self, prompt: Ids, missing: Sequence[tuple[Ids, int]], values: Mapping[Ids, dict[int, float]]
    ) -> list[Usage]:
        """Add what the lists lack: (ending, token id) each. What is left out stays only bounded."""
        if self._exact == "forced":
            named = dict.fromkeys(token_id for _, token_id in missing)
            return [await self._forced(prompt, k, [e for e, other in missing if other == k], values) for k in named]
        return [await self._appended(prompt, missing, values)] if self._exact else []

    async def _forced(
        self, prompt: Ids, token_id: int, endings: Sequence[Ids], values: Mapping[Ids, dict[int, float]]
    ) -> Usage:
        choices, usage = await self._server.forced([prompt + ending for ending in endings], token_id)
        for ending, choice in zip(endings, choices, strict=True):
            told = self._server.listed(choice)
            if token_id not in told:
                raise self._server.host.incapable(
                    f"the server generated another token than {token_id}, the only one allowed"
                )
            _put(values[ending], token_id, told[token_id])
        return usage

    async def _appended(
        self, prompt: Ids, missing: Sequence[tuple[Ids, int]], values: Mapping[Ids, dict[int, float]]
    ) -> Usage:
        prompts = [(*prompt, *ending, token_id) for ending, token_id in missing]
        choices, usage = await self._server.complete(prompts, prompt_logprobs=1)
        for (ending, token_id), choice, ids in zip(missing, choices, prompts, strict=True):
            _put(values[ending], token_id, self._server.prompt_table(choice, ids, len(ids) - 1)[token_id])
        return usage

    # --- whole sequences

    async def _sequence(self, request: SequenceRequest) -> SequenceReply:
        prompt, wanted = await self._tokeniser.split(request.prompt.chunks, request.wanted)
        places = await self._tokeniser.places(request.prompt, request.first)
        (choice,), usage = await self._server.complete([prompt], logprobs=self._top_k, prompt_logprobs=self._top_k)
        tables = [self._place_table(choice, prompt, place) for place in places]
        *shown, last = await self._pieces.worded([*tables, self._server.table(choice)])
        positions = [
            place.position(table, self._parts(choice, prompt, place), wanted)
            for place, table in zip(places, shown, strict=True)
        ]
        exact = [whole(text, ids, {(): last.logprobs}) for text, ids in wanted.items() if len(ids) == 1]
        end = Position(merged([c for c in exact if c is not None], last.best), last.floor)
        return SequenceReply((*positions, end), usage, self.model)

    def _place_table(self, choice: Mapping[str, Json], prompt: Ids, place: Place) -> Table:
        """The list where a label begins. The token that stands there is told whatever its rank: unless it is likelier
        than some other, it says nothing of the tokens that are not listed."""
        values = self._server.prompt_table(choice, prompt, place.start)
        stands = prompt[place.start]
        others = {token_id: value for token_id, value in values.items() if token_id != stands}
        listed = values if others and values[stands] > min(others.values()) else others or values
        return Table.of(listed, values, self._server.host)

    def _parts(self, choice: Mapping[str, Json], prompt: Ids, place: Place) -> list[float]:
        return [
            self._server.prompt_table(choice, prompt, place.start + k)[token_id] for k, token_id in enumerate(place.ids)
        ]


def _put(values: dict[int, float], token_id: int, told: float) -> None:
    """A stand-in (the server writes -9999 for minus infinity) is no number: the label stays bounded."""
    if told > SENTINEL_NATS:
        values[token_id] = told


# --- what the server can do -------------------------------------------------------------------------------


async def _exact(server: _Server, sample: Ids, scores_prompts: bool) -> Exact | None:
    """Measured: servers ignore parameters that they do not know."""
    if await _forces_tokens(server, sample):
        return "forced"
    return "appended" if scores_prompts else None


async def _forces_tokens(server: _Server, sample: Ids) -> bool:
    """Whether a token that is no likely continuation (the last one again) can be forced and keeps its own
    log-probability: it is 0 where the server reports log-probs after the forcing."""
    again = sample[-1]
    try:
        (choice,), _ = await server.forced([sample], again)
        return SENTINEL_NATS < server.listed(choice).get(again, 0.0) < 0
    except (RequestError, CapabilityError):
        return False


async def _scores_prompts(server: _Server, sample: Ids) -> bool:
    try:
        (choice,), _ = await server.complete([sample], prompt_logprobs=1)
        server.prompt_table(choice, sample, len(sample) - 1)
    except (RequestError, CapabilityError):
        return False
    return True


# --- the server -------------------------------------------------------------------------------------------


class _Server(NativeServer):
    provider = NAME
    hint = "start a server there (`vllm serve MODEL`) and check base_url"
    served = ""
    """The model's name as requests must write it."""

    async def learn(self, asked: str | None) -> dict[str, Json]:
        """What the server tells about itself that can change an answer."""
        version = (await self.get("/version")).get("version")
        cards = (await self.get("/v1/models")).get("data")
        models = (
            {str(card["id"]): card for card in cards if isinstance(card, dict) and "id" in card}
            if isinstance(cards, list)
            else {}
        )
        self.served = agreed_name(list(models), asked, self.host)
        card = models[self.served]
        self.name_model(public_name(self.served) or self.served)
        base = models.get(str(card.get("parent")), card)
        return {
            "model": self.host.model,
            "root": public_name(card.get("root")),
            "version": version,
            "context_tokens": count(card.get("max_model_len")) or count(base.get("max_model_len")),
        }

    async def tokenise(self, text: str, *, add_special: bool = False) -> Ids:
        body: Json = {"model": self.served, "prompt": text, "add_special_tokens": add_special}
        reply = await self.post("/tokenize", body)
        return token_ids(reply.get("tokens") if isinstance(reply, dict) else None, text, self.host)

    async def decode(self, parts: Sequence[Ids]) -> list[str]:
        """The route takes one text a request."""
        return [await self._decode(ids) for ids in parts]

    async def _decode(self, ids: Ids) -> str:
        reply = await self.post("/detokenize", {"model": self.served, "tokens": list(ids)})
        text = reply.get("prompt") if isinstance(reply, dict) else None
        if not isinstance(text, str):
            raise self.host.incapable("the server does not tell the text of its tokens (/detokenize)")
        return text

    async def complete(self, prompts: Sequence[Ids], **more: Json) -> tuple[list[Mapping[str, Json]], Usage]:
        """One request for several prompts, one generated token each; the choices in their order."""
        body: dict[str, Json] = {
            "model": self.served,
            "prompt": [list(ids) for ids in prompts],
            "max_tokens": 1,
            "temperature": 0,
            "return_tokens_as_token_ids": True,
            **more,
        }
        reply = await self.post("/v1/completions", body)
        document = reply if isinstance(reply, dict) else {}
        usage = openai_usage(document)
        self._check_read(usage, prompts)
        # With several prompts only the last one's cached tokens are told.
        return self._in_order(document.get("choices"), prompts), (
            usage if len(prompts) == 1 else replace(usage, cached_tokens=None)
        )

    async def forced(self, prompts: Sequence[Ids], token_id: int) -> tuple[list[Mapping[str, Json]], Usage]:
        """Like `complete`, with the one token that may come; its log-probability alone is told."""
        return await self.complete(prompts, logprobs=0, allowed_token_ids=[token_id])

    def _check_read(self, usage: Usage, prompts: Sequence[Ids]) -> None:
        sent = sum(map(len, prompts))
        if usage.prompt_tokens is None:
            raise self.host.incapable("the reply lacks usage.prompt_tokens, so nobody knows if the prompt was cut")
        if usage.prompt_tokens != sent:
            raise self.host.incapable(f"the server read {usage.prompt_tokens} tokens of {sent}: the prompt was cut")

    def _in_order(self, choices: Json, prompts: Sequence[Ids]) -> list[Mapping[str, Json]]:
        replies = choices if isinstance(choices, list) else []
        found = {count(choice.get("index")): choice for choice in replies if isinstance(choice, dict)}
        if len(replies) != len(prompts) or set(found) != set(range(len(prompts))):
            raise self.host.incapable(f"{len(prompts)} prompts were asked, and the replies do not match them")
        return [found[k] for k in range(len(prompts))]

    # --- parts of a choice

    def table(self, choice: Mapping[str, Json]) -> Table:
        """The likeliest tokens. No likely token has probability 0: such an entry is the filling of a spoiled list."""
        listed = self.listed(choice)
        if min(listed.values()) <= SENTINEL_NATS:
            raise self.host.error(
                TransientError,
                "the list of likeliest tokens was spoiled by a request with logprob_token_ids or to "
                "/generative_scoring, which this server was answering for someone else at the same moment (vLLM pull "
                "request 51789); if it keeps happening, use a server that nobody asks so",
            )
        return Table.of(listed, {}, self.host)

    def listed(self, choice: Mapping[str, Json]) -> dict[int, float]:
        """Log-probabilities for the first generated token, by id."""
        logprobs = choice.get("logprobs")
        lists = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
        first = lists[0] if isinstance(lists, list) and lists else None
        if not isinstance(first, dict) or not first:
            raise self.host.incapable("the reply has no list of log-probabilities: this is not a vLLM server?")
        return {self._named_id(token): nats(value, self.host) for token, value in first.items()}

    def _named_id(self, token: str) -> int:
        prefix, _, digits = token.partition(":")
        token_id = whole_number(digits)
        if prefix != "token_id" or token_id is None:
            raise self.host.incapable(
                "the reply names tokens by text, not by id (return_tokens_as_token_ids was ignored): use a newer vLLM, "
                "or provider openai-compatible"
            )
        return token_id

    def prompt_table(self, choice: Mapping[str, Json], ids: Ids, place: int) -> dict[int, float]:
        """Log-probabilities at a place of the prompt, by id: the likeliest tokens, and the one that stands there."""
        entries = choice.get("prompt_logprobs")
        if not isinstance(entries, list) or len(entries) != len(ids):
            said = f"{len(entries)} entries" if isinstance(entries, list) else "none"
            raise self.host.incapable(f"prompt_logprobs were asked for {len(ids)} tokens, and the reply has {said}")
        entry = entries[place]
        values = dict(self._prompt_entries(entry)) if isinstance(entry, dict) else {}
        if ids[place] not in values:
            raise self.host.incapable(f"prompt_logprobs lack the prompt's own token {ids[place]} at place {place}")
        return values

    def _prompt_entries(self, entry: Mapping[str, Json]) -> Iterable[tuple[int, float]]:
        for token_id, told in entry.items():
            number = whole_number(token_id)
            if number is None or not isinstance(told, dict):
                raise self.host.incapable("prompt_logprobs are not {token id: {logprob}}")
            yield number, nats(told.get("logprob"), self.host)
