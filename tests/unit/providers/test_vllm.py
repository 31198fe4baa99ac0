"""The vLLM adapter against a loopback server with vLLM's wire format."""

import math

import pytest

from icm_api.errors import CapabilityError, ConfigError, RequestError, TransientError
from icm_api.providers.vllm import Vllm as Adapter
from icm_api.types import NextTokenReply, NextTokenRequest, Position, Prompt, SequenceRequest, TokenCountRequest
from tests.servers.model import UNLIKELY_NATS, TokenModel
from tests.servers.vllm import MODEL, Vllm

PROMPT = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " True"), ("Text: c\nLabel:", " False")), "Sort these.")
LABELS = (" True", " False")
SPLIT: dict[str, tuple[str, ...]] = {" Yesterday": (" Ye", "sterday"), " Yes": (" Ye", "s")}


@pytest.fixture
def serve(server):
    def install(**options):
        host = Vllm(**options)
        host.serve(server)
        return host

    return install


@pytest.fixture
async def connect(server):
    opened = []

    async def build(**changes):
        opened.append(await Adapter.connect(**{"base_url": f"{server.url}/v1", **changes}))
        return opened[-1]

    yield build
    for adapter in opened:
        await adapter.aclose()


def completions(server):
    """Bodies of the completions that were asked for after connecting."""
    asked = [request.body for request in server.requests("/v1/completions")]
    return [body for body in asked if len(body["prompt"][0]) > 20]


def value_of(reply: NextTokenReply | Position, text: str) -> float:
    (found,) = [c.logprob_nats for c in reply.candidates if c.text == text]
    return found


def expected(model: TokenModel, prompt: Prompt, text: str) -> float:
    """The sum over the tokens of `text`, straight from the model."""
    ids, total = model.tokenise(prompt.text, True), 0.0
    for token in model.tokenise(text):
        total += model.logprob(ids, token)
        ids = [*ids, token]
    return total


async def test_likely_labels_come_by_id_in_one_request_with_the_prompt_as_ids(server, serve, connect):
    host = serve(model=TokenModel(bos=True))
    adapter = await connect()
    reply = await adapter.send(NextTokenRequest(PROMPT, LABELS))
    (body,) = completions(server)
    assert body == {
        "model": MODEL,
        "prompt": [host.model.tokenise(PROMPT.text, True)],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 20,
        "return_tokens_as_token_ids": True,
    }
    for label in LABELS:
        assert value_of(reply, label) == pytest.approx(expected(host.model, PROMPT, label))
    assert reply.usage.prompt_tokens == len(body["prompt"][0])
    assert reply.usage.cached_tokens is not None


@pytest.mark.parametrize(
    ("can", "parameter", "exact"),
    [
        ({}, "allowed_token_ids", "forced"),
        ({"forces": False}, "prompt_logprobs", "appended"),
        ({"after_forcing": True}, "prompt_logprobs", "appended"),
    ],
)
async def test_a_label_outside_the_list_is_asked_for_by_itself(server, serve, connect, can, parameter, exact):
    host = serve(**can)
    adapter = await connect()
    reply = await adapter.send(NextTokenRequest(PROMPT, (*LABELS, " Unheard")))
    first, second = completions(server)
    assert parameter not in first
    assert parameter in second
    assert value_of(reply, " Unheard") == UNLIKELY_NATS
    assert value_of(reply, " True") == pytest.approx(expected(host.model, PROMPT, " True"))
    assert adapter.capabilities.exact_labels
    assert adapter.identity["exact"] == exact


async def test_no_request_spoils_the_lists_of_others(server, serve, connect):
    serve()
    await (await connect()).send(NextTokenRequest(PROMPT, (*LABELS, " Unheard")))
    assert "logprob_token_ids" not in str([request.body for request in server.requests("/v1/completions")])


@pytest.mark.parametrize("value", [-0.7, 0.0])
async def test_a_list_that_another_client_spoils_is_asked_for_again(server, serve, connect, value):
    host = serve()
    adapter = await connect()
    spoiled = {"top_logprobs": [{"token_id:7": value, "token_id:0": -9999.0}]}
    server.answer("/v1/completions", changed(host, logprobs=spoiled))
    for request in (NextTokenRequest(PROMPT, LABELS), SequenceRequest(PROMPT, LABELS)):
        with pytest.raises(TransientError, match="spoiled by a request with logprob_token_ids"):
            await adapter.send(request)


async def test_a_forced_token_that_does_not_come_is_an_error(server, serve, connect):
    host = serve()
    adapter = await connect()
    host.forces = False
    with pytest.raises(CapabilityError, match="another token than"):
        await adapter.send(NextTokenRequest(PROMPT, (*LABELS, " Unheard")))


async def test_a_server_that_can_do_neither_gives_bounds_and_says_so(serve, connect):
    serve(forces=False, scores_prompts=False)
    adapter = await connect()
    reply = await adapter.send(NextTokenRequest(PROMPT, (*LABELS, " Unheard")))
    assert not adapter.capabilities.exact_labels
    assert not adapter.capabilities.prompt_logprobs
    assert " Unheard" not in {c.text for c in reply.candidates}
    assert reply.floor_nats is not None


@pytest.mark.parametrize("forces", [True, False])
async def test_labels_that_share_a_first_token_are_told_apart(server, serve, connect, forces):
    host = serve(model=TokenModel((" Yes", " Yesterday"), SPLIT), forces=forces)
    prompt = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " Yes"),) * 3)
    reply = await (await connect()).send(NextTokenRequest(prompt, (" Yes", " Yesterday")))
    for label in (" Yes", " Yesterday"):
        assert value_of(reply, label) == pytest.approx(expected(host.model, prompt, label))
    assert len(completions(server)) == 1


async def test_labels_of_which_one_begins_the_other_are_refused(serve, connect):
    serve(model=TokenModel(split={" Truest": (" True", "st")}))
    adapter = await connect()
    with pytest.raises(CapabilityError, match="begins with all of"):
        await adapter.send(NextTokenRequest(PROMPT, (" True", " Truest")))


@pytest.mark.parametrize("marks_start", [True, False])
async def test_a_sequence_tells_at_each_label_what_a_request_for_that_place_tells(serve, connect, marks_start):
    serve(model=TokenModel(bos=True, marks_start=marks_start))
    adapter = await connect()
    assert adapter.identity["by_chunks"] is not marks_start
    reply = await adapter.send(SequenceRequest(PROMPT, LABELS))
    for k, position in enumerate(reply.positions):
        text = (*(text for text, _ in PROMPT.demonstrations), PROMPT.query)[k]
        alone = await adapter.send(NextTokenRequest(Prompt(text, PROMPT.demonstrations[:k], PROMPT.preamble), LABELS))
        for label in LABELS:
            assert value_of(position, label) == pytest.approx(value_of(alone, label))


async def test_only_positions_from_the_first_scored_one_on_come_back(serve, connect):
    serve()
    adapter = await connect()
    whole = await adapter.send(SequenceRequest(PROMPT, LABELS))
    part = await adapter.send(SequenceRequest(PROMPT, LABELS, first=1))
    assert part.positions == whole.positions[1:]


async def test_within_a_sequence_a_label_of_several_tokens_has_their_sum_where_it_stands(serve, connect):
    host = serve(model=TokenModel((" Yes", " Yesterday"), SPLIT))
    shown = (("Text: a\nLabel:", " Yes"), ("Text: c\nLabel:", " Yesterday"))
    reply = await (await connect()).send(SequenceRequest(Prompt("Text: b\nLabel:", shown), (" Yes", " Yesterday")))
    for k, (text, label) in enumerate(shown):
        there = expected(host.model, Prompt(text, shown[:k]), label)
        assert value_of(reply.positions[k], label) == pytest.approx(there)


async def test_a_shown_label_far_below_the_list_says_nothing_of_the_others(serve, connect):
    serve()
    shown = (("Text: a\nLabel:", " True"), ("Text: c\nLabel:", " Unheard"))
    adapter = await connect(top_k=3)
    reply = await adapter.send(SequenceRequest(Prompt("Text: b\nLabel:", shown), (*LABELS, " Unheard"), first=1))
    listed = [c.logprob_nats for c in reply.positions[0].candidates if c.text != " Unheard"]
    assert value_of(reply.positions[0], " Unheard") == pytest.approx(math.log(1e-9), abs=20)
    assert reply.positions[0].floor_nats == pytest.approx(min(listed), abs=3)
    assert reply.positions[0].floor_nats > UNLIKELY_NATS


async def test_sequences_can_be_done_without(serve, connect):
    serve()
    adapter = await connect(echo=False)
    assert not adapter.capabilities.prompt_logprobs
    with pytest.raises(CapabilityError, match="sequence"):
        await adapter.send(SequenceRequest(PROMPT, LABELS))


async def test_a_token_with_a_blank_is_told_from_one_without(serve, connect):
    host = serve(model=TokenModel((" True", "True"), marks_start=True))
    reply = await (await connect()).send(NextTokenRequest(PROMPT, ()))
    ids = {c.text: c.token_id for c in reply.candidates}
    assert ids[" True"] == host.model.id(" True") != ids["True"]


async def test_where_models_are_listed_is_told_by_the_servers_own_path(server, serve, connect, answer):
    serve()
    adapter = await connect()
    server.answer("/v1/completions", answer({"error": {"message": "no such model", "code": 404}}, 404))
    with pytest.raises(RequestError, match=f"{server.url}/v1/models"):
        await adapter.send(NextTokenRequest(PROMPT, LABELS))


async def test_minus_infinity_is_a_bound_and_not_a_number(serve, connect, monkeypatch):
    serve()
    adapter = await connect()
    monkeypatch.setattr(TokenModel, "logprob", lambda *_: -math.inf)
    reply = await adapter.send(NextTokenRequest(PROMPT, (*LABELS, " Unheard")))
    assert " Unheard" not in {c.text for c in reply.candidates}


async def test_tokens_are_counted_without_bos(serve, connect):
    serve(model=TokenModel(bos=True))
    reply = await (await connect()).send(TokenCountRequest(("one two", "", "one")))
    assert reply.counts == (2, 0, 1)


async def test_it_tells_what_it_is_without_paths_of_the_servers_disk(serve, connect):
    serve(served="/home/me/models/tiny")
    adapter = await connect(model="tiny")
    assert adapter.model == adapter.identity["model"] == "tiny"
    assert adapter.identity["version"] == "0.33.0"
    assert "/home" not in str(adapter.identity)
    assert adapter.capabilities.context_tokens == 4095
    assert not adapter.capabilities.plain_text_tokens


async def test_another_model_than_the_loaded_one_is_refused(serve, connect):
    serve()
    with pytest.raises(RequestError, match="has loaded 'org/tiny', not 'big'"):
        await connect(model="big")


async def test_a_bad_top_k_is_refused_before_asking(server, connect):
    with pytest.raises(ConfigError, match="top_k"):
        await connect(top_k=0)
    assert not server.asked


async def test_more_candidates_than_the_server_allows_are_its_error(serve, connect):
    serve()
    adapter = await connect(top_k=21)
    with pytest.raises(RequestError, match="max allowed: 20"):
        await adapter.send(NextTokenRequest(PROMPT, LABELS))


def changed(host: Vllm, **parts):
    """The host's completions with parts of every choice replaced, or of the reply (`usage`)."""

    def complete(body):
        reply = host.complete(body)
        reply |= {name: value for name, value in parts.items() if name in reply}
        for choice in reply["choices"]:
            choice |= {name: value for name, value in parts.items() if name in choice}
        return reply

    return complete


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"logprobs": None}, "no list of log-probabilities"),
        ({"logprobs": {"top_logprobs": [{" True": -0.1, " False": -3.0}]}}, "by text, not by id"),
        ({"logprobs": {"top_logprobs": [{"token_id:1": 0.0}]}}, "all 0 or stand-ins"),
        ({"logprobs": {"top_logprobs": [{"token_id:1": -0.1, "token_id:2": -0.2}]}}, "more than all of it"),
        ({"usage": {"prompt_tokens": 3}}, "was cut"),
        ({"usage": None}, "lacks usage.prompt_tokens"),
        ({"choices": []}, "do not match"),
    ],
)
async def test_replies_that_say_nothing_are_refused(server, serve, connect, parts, problem):
    host = serve()
    adapter = await connect()
    server.answer("/v1/completions", changed(host, **parts))
    with pytest.raises(CapabilityError, match=problem):
        await adapter.send(NextTokenRequest(PROMPT, LABELS))


@pytest.mark.parametrize(
    ("scored", "problem"),
    [
        (None, "the reply has none"),
        ([], "the reply has 0 entries"),
        ([None] * 26, "lack the prompt's own token"),
        ([{"1": {"logprob": -1.0}}] * 26, "lack the prompt's own token"),
        ([{"x": {"logprob": -1.0}}] * 26, "not {token id"),
    ],
)
async def test_prompt_logprobs_that_do_not_fit_the_prompt_are_refused(server, serve, connect, scored, problem):
    host = serve()
    adapter = await connect()
    assert len(host.model.tokenise(PROMPT.text)) == 26
    server.answer("/v1/completions", changed(host, prompt_logprobs=scored))
    with pytest.raises(CapabilityError, match=problem):
        await adapter.send(SequenceRequest(PROMPT, LABELS))
