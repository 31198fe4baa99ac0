"""The adapter for text-generation-inference against a loopback server with its wire format."""

from typing import Any

import pytest

from icm_api.errors import CapabilityError, ConfigError, RequestError
from icm_api.providers.tgi import Tgi as Adapter
from icm_api.types import NextTokenReply, NextTokenRequest, Prompt, SequenceRequest, TokenCountRequest
from tests.servers.model import UNLIKELY_NATS, TokenModel
from tests.servers.tgi import Tgi

PROMPT = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " True"), ("Text: c\nLabel:", " False")), "Sort these.")
LABELS = (" True", " False")
SPLIT: dict[str, tuple[str, ...]] = {" Yesterday": (" Ye", "sterday"), " Yes": (" Ye", "s")}


@pytest.fixture
def serve(server):
    def install(**options):
        host = Tgi(**options)
        host.serve(server)
        return host

    return install


@pytest.fixture
async def connect(server):
    opened = []

    async def build(**changes):
        opened.append(await Adapter.connect(**{"base_url": server.url, **changes}))
        return opened[-1]

    yield build
    for adapter in opened:
        await adapter.aclose()


def value_of(reply: NextTokenReply, text: str) -> float:
    (found,) = [c.logprob_nats for c in reply.candidates if c.text == text]
    return found


def expected(host: Tgi, prompt: Prompt, *pieces: str) -> float:
    ids, total = host.model.tokenise(prompt.text, True), 0.0
    for token in map(host.model.id, pieces):
        total += host.model.logprob(ids, token)
        ids = [*ids, token]
    return total


def asked(server) -> list[Any]:
    """Bodies of what was generated after connecting."""
    return [request.body for request in server.requests("/generate")][1:]


async def test_likely_labels_come_in_one_request_without_sampling(server, serve, connect):
    host = serve()
    reply = await (await connect()).send(NextTokenRequest(PROMPT, LABELS))
    assert asked(server) == [
        {
            "inputs": PROMPT.text,
            "parameters": {"max_new_tokens": 1, "do_sample": False, "details": True, "top_n_tokens": 5},
        }
    ]
    for label in LABELS:
        assert value_of(reply, label) == pytest.approx(expected(host, PROMPT, label))
    assert reply.usage.prompt_tokens == len(host.model.tokenise(PROMPT.text, True))


async def test_a_label_outside_the_list_is_put_after_the_prompt(server, serve, connect):
    serve()
    adapter = await connect()
    reply = await adapter.send(NextTokenRequest(PROMPT, (*LABELS, " Unheard")))
    assert value_of(reply, " Unheard") == UNLIKELY_NATS
    assert adapter.capabilities.exact_labels
    assert asked(server)[-1]["inputs"] == PROMPT.text + " Unheard"
    assert asked(server)[-1]["parameters"]["decoder_input_details"] is True


async def test_a_label_of_several_tokens_has_the_sum_of_them(serve, connect):
    host = serve(model=TokenModel((" Yes", " Yesterday"), SPLIT, bos=True))
    prompt = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " Yes"),) * 3)
    reply = await (await connect()).send(NextTokenRequest(prompt, (" Yes", " Yesterday")))
    assert value_of(reply, " Yes") == pytest.approx(expected(host, prompt, " Ye", "s"))
    assert value_of(reply, " Yesterday") == pytest.approx(expected(host, prompt, " Ye", "sterday"))


async def test_without_prompt_logprobs_such_a_label_is_bounded_and_it_says_so(server, serve, connect):
    serve(prefill=False)
    adapter = await connect()
    reply = await adapter.send(NextTokenRequest(PROMPT, (*LABELS, " Unheard")))
    assert not adapter.capabilities.exact_labels
    assert " Unheard" not in {c.text for c in reply.candidates}
    assert reply.floor_nats is not None
    assert len(asked(server)) == 1


@pytest.mark.parametrize("prefill", [True, False])
async def test_a_listed_label_whose_blank_the_server_leaves_out_is_known_by_its_id(server, serve, connect, prefill):
    host = serve(model=TokenModel(bos=True, marks_start=True), prefill=prefill)
    reply = await (await connect()).send(NextTokenRequest(PROMPT, LABELS))
    for label in LABELS:
        assert value_of(reply, label) == pytest.approx(expected(host, PROMPT, label))
    assert len(asked(server)) == 1
    assert "True" not in {c.text for c in reply.candidates}


async def test_a_label_that_merges_with_the_prompt_is_refused(server, serve, connect):
    serve()
    adapter = await connect()
    prompt = Prompt("Text: b\nLabel: ")
    with pytest.raises(CapabilityError, match="merges with the end"):
        await adapter.send(NextTokenRequest(prompt, ("Unheard",)))


async def test_whole_sequences_are_not_offered(serve, connect):
    serve()
    adapter = await connect()
    assert not adapter.capabilities.prompt_logprobs
    with pytest.raises(CapabilityError, match="sequence"):
        await adapter.send(SequenceRequest(PROMPT, LABELS))


async def test_it_tells_what_it_is(serve, connect):
    serve()
    adapter = await connect(model="org/tiny")
    assert adapter.identity["model"] == "org/tiny"
    assert adapter.identity["version"] == "3.3.6"
    assert adapter.capabilities.context_tokens == 4095
    assert not adapter.capabilities.plain_text_tokens


async def test_tokens_are_counted_without_bos(serve, connect):
    serve()
    reply = await (await connect()).send(TokenCountRequest(("one two", "", "one")))
    assert reply.counts == (2, 0, 1)


async def test_more_candidates_than_the_server_allows_are_its_error(serve, connect):
    serve()
    adapter = await connect(top_k=6)
    with pytest.raises(RequestError, match="top_n_tokens"):
        await adapter.send(NextTokenRequest(PROMPT, LABELS))


async def test_another_model_than_the_loaded_one_is_refused(serve, connect):
    serve()
    with pytest.raises(RequestError, match="has loaded 'org/tiny'"):
        await connect(model="big")


async def test_a_bad_top_k_is_refused_before_asking(server, connect):
    with pytest.raises(ConfigError, match="top_k"):
        await connect(top_k=0)
    assert not server.asked


@pytest.mark.parametrize(
    ("details", "problem"),
    [
        (None, "no details"),
        ({"prefill": []}, "no top_tokens"),
        ({"top_tokens": [[{"id": 1, "text": " True", "logprob": 0.0}]]}, "all 0 or stand-ins"),
        ({"top_tokens": [[{"text": " True", "logprob": -0.1}]]}, "without its id"),
        ({"top_tokens": [[{"id": 1, "text": " True", "logprob": None}]]}, "as a log-probability"),
    ],
)
async def test_replies_that_say_nothing_are_refused(server, serve, connect, details, problem):
    serve()
    adapter = await connect()
    server.answer("/generate", {"generated_text": "?", "details": details})
    with pytest.raises(CapabilityError, match=problem):
        await adapter.send(NextTokenRequest(PROMPT, LABELS))


async def test_scores_of_other_tokens_than_the_prompts_are_refused(server, serve, connect):
    host = serve()
    adapter = await connect()

    def generate(body):
        answer = host.generate(body)
        answer.body["details"]["prefill"] = answer.body["details"]["prefill"][:-1]
        return answer

    server.answer("/generate", generate)
    with pytest.raises(CapabilityError, match="enable-prefill-logprobs"):
        await adapter.send(NextTokenRequest(PROMPT, (" Unheard",)))
