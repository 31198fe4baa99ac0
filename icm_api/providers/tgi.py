"""Hugging Face's text-generation-inference through its own routes.

The server lists few likely tokens (`top_n_tokens`, 5 unless started with more). A label outside them is scored by
putting it after the prompt and reading its prompt log-probs (`decoder_input_details`), where the server gives them:
since version 3 only with `--enable-prefill-logprobs`. Otherwise it is bounded. Nothing lists alternatives within a
prompt, so whole sequences cannot be asked for.
Source: https://huggingface.co/docs/text-generation-inference/reference/api_reference
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar, cast

from icm_api.errors import CapabilityError, ConfigError, RequestError
from icm_api.providers.http import count, whole_number
from icm_api.providers.listed import SENTINEL_NATS, checked, floor_nats, nats
from icm_api.providers.native import NativeServer, agreed_name, public_name
from icm_api.providers.tokens import Ids, merged, summed
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

NAME = "tgi"
ADAPTER_VERSION = 1
"""Raise it when the same request would be asked or read in another way: it is part of the cache key."""
_SAMPLE = "Claim: water is wet.\nThis claim is true"


class Tgi:
    """A provider over one text-generation-inference server. Made by `connect`, which learns what it is and gives."""

    def __init__(self, server: _Server, facts: Mapping[str, Json], *, top_k: int) -> None:
        self._server, self._facts, self._top_k = server, facts, top_k

    @classmethod
    async def connect(
        cls,
        *,
        base_url: str,
        model: str | None = None,
        timeout_s: float = 600,
        top_k: int = 5,
        api_key: str | None = None,
    ) -> Self:
        """Ask the server at `base_url` (its root) what it is, and whether it gives prompt log-probs.

        `model`: the name that the server must have, None for any. `top_k`: candidates to list, at most the server's
        `--max-top-n-tokens` (5 unless set). Raises ConfigError for a bad argument and ProviderError.
        """
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {top_k}")
        server = _Server(base_url, api_key, model, timeout_s)
        try:
            facts = await server.learn(model)
            facts["prefill"] = await _gives_prefill(server)
        except BaseException:
            await server.aclose()
            raise
        return cls(server, facts, top_k=top_k)

    @property
    def name(self) -> str:
        return NAME

    @property
    def model(self) -> str:
        return self._server.host.model

    @property
    def identity(self) -> Mapping[str, Json]:
        asked: dict[str, Json] = {"top_k": self._top_k, "base_url": self._server.host.base_url}
        return {"adapter": NAME, "adapter_version": ADAPTER_VERSION, **asked, **self._facts}

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            exact_labels=bool(self._facts["prefill"]),
            max_top_k=self._top_k,
            continues_label=True,
            counts_tokens=True,
            plain_text_tokens=False,  # its tokeniser reads special tokens written in a text
            context_tokens=count(self._facts["context_tokens"]),
        )

    async def send(self, request: Request[R]) -> R:
        if isinstance(request, NextTokenRequest):
            return cast(R, await self._next_token(request))
        if isinstance(request, TokenCountRequest):
            counts = [await self._server.count(text) for text in request.texts]
            return cast(R, TokenCountReply(tuple(counts)))
        raise self._server.host.incapable(f"{NAME} cannot answer {request.kind!r} requests")

    async def aclose(self) -> None:
        await self._server.aclose()

    async def _next_token(self, request: NextTokenRequest) -> NextTokenReply:
        prompt = request.prompt.text + request.continuation
        if not prompt:
            raise ValueError("an empty prompt has no next token")
        if "" in request.wanted:
            raise ValueError("an empty continuation has no probability")
        reply = await self._server.generate(prompt, top_n_tokens=self._top_k)
        listed = reply.listed()
        texts = {c.text for c in listed}
        missing = [text for text in request.wanted if text not in texts]
        more = await self._unlisted(prompt, missing, listed) if missing else []
        exact = [candidate for candidate, _ in more if candidate is not None]
        return NextTokenReply(
            candidates=merged(exact, listed),
            floor_nats=floor_nats(listed),
            usage=summed([reply.usage, *(usage for _, usage in more if usage is not None)]),
            model=self.model,
        )

    async def _unlisted(
        self, prompt: str, missing: Sequence[str], listed: Sequence[Candidate]
    ) -> list[tuple[Candidate | None, Usage | None]]:
        """Wanted texts that the list does not name, and what asking for them cost."""
        before = await self._server.tokenise(prompt)
        return [await self._one_unlisted(prompt, before, text, listed) for text in missing]

    async def _one_unlisted(
        self, prompt: str, before: Ids, text: str, listed: Sequence[Candidate]
    ) -> tuple[Candidate | None, Usage | None]:
        """By its id, for the server writes a token's text without its leading blank where the vocabulary marks that
        by itself; else by prompt log-probs."""
        ids = self._server.ending(await self._server.tokenise(prompt + text), before, text)
        for candidate in listed:
            if ids == (candidate.token_id,):
                return Candidate(text, candidate.logprob_nats, candidate.token_id), None
        if not self._facts["prefill"]:
            return None, None
        reply = await self._server.generate(prompt + text, decoder_input_details=True)
        parts = reply.prefill(before + ids)[-len(ids) :]
        token_id = ids[0] if len(ids) == 1 else None
        return Candidate(text, sum(parts), token_id) if min(parts) > SENTINEL_NATS else None, reply.usage


async def _gives_prefill(server: _Server) -> bool:
    """Measured: servers without prompt log-probs answer with an empty list."""
    try:
        reply = await server.generate(_SAMPLE, decoder_input_details=True)
        reply.prefill(await server.tokenise(_SAMPLE))
    except (RequestError, CapabilityError):
        return False
    return True


# --- the server -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reply:
    """What the server said about one prompt."""

    server: _Server
    details: Mapping[str, Json]
    usage: Usage

    def listed(self) -> tuple[Candidate, ...]:
        """The likeliest first tokens."""
        lists = self.details.get("top_tokens")
        first = lists[0] if isinstance(lists, list) and lists else None
        if not isinstance(first, list):
            raise self.server.host.incapable("the reply has no top_tokens: top_n_tokens was ignored")
        return checked([self._candidate(entry) for entry in first], self.server.host)

    def _candidate(self, entry: Json) -> Candidate:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
            raise self.server.host.incapable("the reply lists a candidate without its id")
        value = nats(entry.get("logprob"), self.server.host)
        return Candidate(str(entry.get("text", "")), value, cast(int, entry["id"]))

    def prefill(self, ids: Ids) -> list[float]:
        """Log-probability of each of the prompt's tokens but the first, which must be `ids`."""
        entries = self.details.get("prefill")
        tokens = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        if tuple(token.get("id") for token in tokens) != ids:
            raise self.server.host.incapable(
                f"the reply scores {len(tokens)} prompt tokens, which are not the {len(ids)} that were sent "
                "(start the server with --enable-prefill-logprobs)"
            )
        return [nats(token.get("logprob"), self.server.host) for token in tokens[1:]]


class _Server(NativeServer):
    provider = NAME
    hint = "start a server there (`text-generation-launcher --model-id MODEL`) and check base_url"

    async def learn(self, asked: str | None) -> dict[str, Json]:
        """What the server tells about itself that can change an answer."""
        info = await self.get("/info")
        model_id = info.get("model_id")
        if not isinstance(model_id, str):
            raise self.host.incapable("/info names no model: this is not a text-generation-inference server")
        name = agreed_name([model_id], asked, self.host)
        self.name_model(public_name(name) or name)
        longest = count(info.get("max_input_tokens")) or count(info.get("max_input_length"))
        total = count(info.get("max_total_tokens"))
        return {
            "model": self.host.model,
            "model_sha": info.get("model_sha"),
            "model_dtype": info.get("model_dtype"),
            "version": info.get("version"),
            "build": info.get("sha"),
            "context_tokens": min((n for n in (longest, total - 1 if total else None) if n), default=None),
        }

    async def tokenise(self, text: str) -> Ids:
        """Ids as the server reads a prompt: with BOS where the model wants it."""
        return tuple(cast(int, token["id"]) for token in await self._tokens(text))

    async def count(self, text: str) -> int:
        """Number of a text's own tokens: those that the model wants around every text span nothing of it."""
        return sum(token.get("start") != token.get("stop") for token in await self._tokens(text))

    async def _tokens(self, text: str) -> list[dict[str, Json]]:
        reply = await self.post("/tokenize", {"inputs": text})
        tokens = [token for token in reply if isinstance(token, dict)] if isinstance(reply, list) else []
        if (text and not tokens) or not all(isinstance(token.get("id"), int) for token in tokens):
            raise self.host.incapable(f"the server gave no token ids for {text[:40]!r}")
        return tokens

    def ending(self, ids: Ids, before: Ids, text: str) -> Ids:
        """What `text` adds to the prompt's ids."""
        if ids[: len(before)] != before or len(ids) == len(before):
            raise self.host.incapable(
                f"the label {text!r} merges with the end of the prompt in this model's tokens, so it has no "
                "probability of its own: end the template differently (no trailing blank) or change the label"
            )
        return ids[len(before) :]

    async def generate(self, prompt: str, **more: Json) -> _Reply:
        """One greedily generated token: then the log-probs are the model's own."""
        parameters: dict[str, Json] = {"max_new_tokens": 1, "do_sample": False, "details": True, **more}
        response = await self.response("/generate", {"inputs": prompt, "parameters": parameters})
        details = self.host.mapping(response).get("details")
        if not isinstance(details, dict):
            raise self.host.incapable("the reply has no details, so no log-probabilities")
        told = response.headers.get("x-prompt-tokens", "")
        generated = count(details.get("generated_tokens"))
        return _Reply(self, details, Usage(whole_number(told), None, generated))
