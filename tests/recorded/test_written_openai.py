"""The OpenAI routes on replies written from the SDK's types; cassettes/written/openai/README.md has their sources."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types import Decision, ErrorObject
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from icm_api.errors import CapabilityError, OutOfReachError, RequestError
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.types import ChoiceReply, ChoiceRequest, NextTokenRequest, Prompt, Request, Usage

WRITTEN = Path(__file__).parents[2] / "cassettes" / "written" / "openai"
DOCUMENTS: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(WRITTEN.glob("*.json"))}
TYPES: dict[str, type[BaseModel]] = {
    "chat": ChatCompletion,
    "votes": ChatCompletion,
    "responses": Response,
    "decisions": Decision,
}
PATHS = {
    "chat": "/v1/chat/completions",
    "votes": "/v1/chat/completions",
    "responses": "/v1/responses",
    "decisions": "/v1/decisions",
}
PROMPT = Prompt("Review: best day of the year\nSentiment:", (("Review: great film\nSentiment:", " positive"),))
LABELS = (" negative", " positive")
NEXT_TOKEN, CHOICE = NextTokenRequest(PROMPT, LABELS), ChoiceRequest(PROMPT, LABELS)


@pytest.fixture
async def send(server, answer):
    opened = []

    async def build(route: str, name: str, request: Request[Any], status: int = 200) -> Any:
        server.answer(PATHS[route], answer(DOCUMENTS[name], status))
        opened.append(OpenAICompatible(base_url=f"{server.url}/v1", model="asked", api_key=None, route=route))  # type: ignore[arg-type]
        return await opened[-1].send(request)

    yield build
    for adapter in opened:
        await adapter.aclose()


def unknown_members(value: Any) -> list[str]:
    """Members of a document, read as one of the SDK's types, that the type does not have."""
    if isinstance(value, list):
        return [name for item in value for name in unknown_members(item)]
    if not isinstance(value, BaseModel):
        return []
    return [*(value.model_extra or {}), *unknown_members([getattr(value, name) for name in type(value).model_fields])]


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if not name.startswith("error")])
def test_a_written_reply_is_what_the_sdk_expects(name):
    read = TYPES[name.split("_")[0]].model_validate(DOCUMENTS[name])
    assert unknown_members(read) == []


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.startswith("error")])
def test_a_written_error_is_what_the_sdk_expects(name):
    assert unknown_members(ErrorObject.model_validate(DOCUMENTS[name]["error"])) == []


def test_every_written_reply_has_its_source():
    told = (WRITTEN / "README.md").read_text()
    assert DOCUMENTS
    assert [name for name in DOCUMENTS if f"`{name}.json`" not in told] == []


@pytest.mark.parametrize("route", ["chat", "responses"])
async def test_log_probs_of_the_first_token_are_read_with_the_cached_tokens(send, route):
    reply = await send(route, f"{route}_log_probs", NEXT_TOKEN)
    listed = [(c.text, c.logprob_nats) for c in reply.candidates]
    assert listed == [
        (" positive", -0.41),
        (" negative", -1.23),
        (" positive", -4.9),
        (" Positive", -5.6),
        (" The", -6.2),
    ]
    assert reply.floor_nats == -6.2
    assert reply.usage == Usage(1310, 1280, 1)
    assert reply.model.startswith("gpt-")


@pytest.mark.parametrize(("route", "name"), [("chat", "chat_without_log_probs"), ("responses", "responses_reasoned")])
async def test_a_reply_without_log_probs_names_the_routes_that_do_without(send, route, name):
    with pytest.raises(CapabilityError, match=r"no log-probabilities.*--route votes.*--route decisions"):
        await send(route, name, NEXT_TOKEN)


async def test_a_model_that_cannot_be_asked_for_log_probs_names_them_too(send):
    for route in ("chat", "responses"):
        with pytest.raises(CapabilityError, match=r"not supported with this model.*--route votes"):
            await send(route, "error_log_probs_unsupported", NEXT_TOKEN, 400)


async def test_stated_probabilities_are_read_in_the_order_offered(send):
    assert await send("decisions", "decisions_choice", CHOICE) == ChoiceReply(
        (0.09, 0.91), Usage(1310, 1280, 0), "gpt-6-luna"
    )


async def test_a_vote_is_read_as_one_answer(send):
    assert (await send("votes", "votes_answer", CHOICE)).shares == (1.0, 0.0)


@pytest.mark.parametrize("route", ["decisions", "votes"])
async def test_a_refusal_is_never_a_label(send, route):
    reply = await send(route, f"{route}_refusal", CHOICE)
    assert reply.shares == ()
    assert "refuses to" in reply.said


async def test_a_refused_response_is_never_a_label(send):
    with pytest.raises(OutOfReachError, match="refuses to"):
        await send("responses", "responses_refusal", NEXT_TOKEN)


async def test_an_answer_cut_off_is_never_a_label(send):
    reply = await send("votes", "votes_cut_off", CHOICE)
    assert reply.shares == ()
    assert "cut off" in reply.said


async def test_a_spent_quota_is_not_asked_again(send):
    with pytest.raises(RequestError, match="quota"):
        await send("decisions", "error_insufficient_quota", CHOICE, 429)
