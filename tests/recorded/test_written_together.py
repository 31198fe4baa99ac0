"""The Together adapter on replies written from published types; their sources: cassettes/written/together/README.md."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from together.types import Completion
from together.types.chat import ChatCompletion

from icm_api.errors import CapabilityError, RateLimitError, RequestError, TransientError
from icm_api.providers.together import Together
from icm_api.types import NextTokenRequest, Prompt, Request, SequenceRequest, Usage

WRITTEN = Path(__file__).parents[2] / "cassettes" / "written" / "together"
DOCUMENTS: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(WRITTEN.glob("*.json"))}
REPLIES = [name for name in DOCUMENTS if not name.startswith("error")]
TYPES: dict[str, type[BaseModel]] = {"completions": Completion, "chat": ChatCompletion}
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}

DIFFERS = {
    "completions_lists": {"choices.0.logprobs.top_logprobs"},
    "completions_echo": {
        "choices.0.logprobs.top_logprobs",
        "prompt.0.logprobs.token_logprobs.0",
        "prompt.0.logprobs.top_logprobs",
    },
    "chat_lists": {"choices.0.logprobs.top_logprobs"},
}
"""Members of another type than the SDK's: real replies have them, the SDK reads replies without validating them."""
BEYOND = {
    "completions_lists": {"cached_tokens"},
    "completions_echo": {"cached_tokens"},
    "chat_lists": {"cached_tokens"},
    "completions_content": {"content"},
    "chat_content": {"content"},
}
"""Members that the SDK's types lack."""

SHOWN = (("Review: great film\nSentiment:", " positive"),)
PROMPT = Prompt("Review: best day of the year\nSentiment:", SHOWN)
LABELS = (" negative", " positive")
NEXT_TOKEN, SEQUENCE = NextTokenRequest(PROMPT, LABELS), SequenceRequest(PROMPT, LABELS)


@pytest.fixture
async def send(server, answer):
    opened = []

    async def build(name: str, request: Request[Any], status: int = 200, headers: Any = None) -> Any:
        route = name.split("_")[0] if name in REPLIES else "completions"
        server.answer(PATHS[route], answer(DOCUMENTS[name], status, headers or {}))
        opened.append(Together(base_url=f"{server.url}/v1", model="asked", api_key=None, route=route))  # type: ignore[arg-type]
        return await opened[-1].send(request)

    yield build
    for adapter in opened:
        await adapter.aclose()


def without(document: Any, place: str) -> Any:
    """The document with null at a place such as `choices.0.logprobs`."""
    *parents, last = [int(part) if part.isdecimal() else part for part in place.split(".")]
    copy = inner = json.loads(json.dumps(document))
    for part in parents:
        inner = inner[part]
    inner[last] = 0.0 if isinstance(last, int) else None
    return copy


def unknown_members(value: Any) -> set[str]:
    """Members of a document, read as one of the SDK's types, that the type does not have."""
    if isinstance(value, list):
        return {name for item in value for name in unknown_members(item)}
    if not isinstance(value, BaseModel):
        return set()
    return set(value.model_extra or {}) | unknown_members([getattr(value, name) for name in type(value).model_fields])


@pytest.mark.parametrize("name", REPLIES)
def test_a_written_reply_is_what_the_sdk_expects_but_for_what_is_known_to_differ(name):
    kind, document = TYPES[name.split("_")[0]], DOCUMENTS[name]
    if name in DIFFERS:
        with pytest.raises(ValidationError) as caught:
            kind.model_validate(document)
        assert {".".join(map(str, problem["loc"])) for problem in caught.value.errors()} == DIFFERS[name]
    for place in DIFFERS.get(name, set()):
        document = without(document, place)
    assert unknown_members(kind.model_validate(document)) == BEYOND.get(name, set())


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in REPLIES])
def test_a_written_error_has_the_members_of_the_schema(name):
    assert set(DOCUMENTS[name]["error"]) - {"error_type"} == {"message", "type", "param", "code"}


def test_every_written_reply_has_its_source():
    told = (WRITTEN / "README.md").read_text()
    assert DOCUMENTS
    assert [name for name in DOCUMENTS if f"`{name}.json`" not in told] == []


@pytest.mark.parametrize(
    "name",
    [
        *("completions_lists", "completions_one_list", "completions_content"),
        *("chat_lists", "chat_list_beside", "chat_content"),
    ],
)
async def test_the_first_tokens_candidates_are_read_from_every_shape(send, name):
    reply = await send(name, NEXT_TOKEN)
    listed = [(c.text, c.logprob_nats) for c in reply.candidates]
    assert listed == [(" positive", -0.41015625), (" negative", -1.2421875), (" mixed", -3.8125)]
    assert reply.floor_nats == -3.8125
    assert reply.model == DOCUMENTS[name]["model"]


async def test_usage_is_read_with_the_cached_tokens_where_they_are_told(send):
    assert (await send("chat_lists", NEXT_TOKEN)).usage == Usage(33, 16, 1)
    assert (await send("completions_one_list", NEXT_TOKEN)).usage == Usage(21, None, 1)


async def test_an_echo_gives_the_shown_label_and_the_next_one(send):
    shown, after = (await send("completions_echo", SEQUENCE)).positions
    assert {c.text: c.logprob_nats for c in shown.candidates} == {
        " positive": -0.83203125,
        " negative": -1.0390625,
        " Positive": -2.5390625,
        " good": -3.7890625,
    }
    assert after.candidates[0].text == " positive"


@pytest.mark.parametrize(
    ("name", "request_", "said"),
    [
        ("completions_without_log_probs", NEXT_TOKEN, "no log-probabilities"),
        ("completions_echo_shown_only", SEQUENCE, r"a list of top_logprobs for each token.*--no-echo"),
        ("completions_echo_one_list", SEQUENCE, r"a list of top_logprobs for each token.*--no-echo"),
        ("completions_echo_ignored", SEQUENCE, r"ignored echo.*--no-echo"),
    ],
)
async def test_what_cannot_compare_labels_is_refused(send, name, request_, said):
    with pytest.raises(CapabilityError, match=said):
        await send(name, request_)


@pytest.mark.parametrize(
    ("name", "status", "kind", "said"),
    [
        ("error_dynamic_request_limited", 429, RateLimitError, "asks for fewer requests"),
        ("error_dynamic_token_limited", 429, RateLimitError, "asks for fewer requests"),
        ("error_overloaded", 503, TransientError, "failed for now"),
        ("error_out_of_credit", 402, RequestError, "no credit left"),
        ("error_prompt_too_long", 403, RequestError, "the prompt has 5000 tokens, the context holds 4097"),
        ("error_prompt_too_long", 422, RequestError, "the prompt has 5000 tokens, the context holds 4097"),
    ],
)
async def test_a_written_error_gets_its_type_and_the_wait_it_asks_for(send, name, status, kind, said):
    with pytest.raises(kind, match=said) as caught:
        await send(name, NEXT_TOKEN, status, {"x-ratelimit-reset": "1.5"})
    assert getattr(caught.value, "retry_after_s", 1.5) == 1.5
