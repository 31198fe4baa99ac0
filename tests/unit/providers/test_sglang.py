"""The SGLang adapter against a loopback server with SGLang's wire format."""

import pytest

from icm_api.errors import CapabilityError, ConfigError, RequestError
from icm_api.providers.sglang import Sglang as Adapter
from icm_api.types import NextTokenReply, NextTokenRequest, Position, Prompt, SequenceRequest, TokenCountRequest
from tests.servers.model import UNLIKELY_NATS, TokenModel
from tests.servers.sglang import Sglang

PROMPT = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " True"), ("Text: c\nLabel:", " False")), "Sort these.")
LABELS = (" True", " False")
SPLIT: dict[str, tuple[str, ...]] = {" Yesterday": (" Ye", "sterday"), " Yes": (" Ye", "s")}


@pytest.fixture
def serve(server):
    def install(**options):
        host = Sglang(**options)
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


def value_of(reply: NextTokenReply | Position, text: str) -> float:
    (found,) = [c.logprob_nats for c in reply.candidates if c.text == text]
    return found


def alone(k: int) -> Prompt:
    """The prompt that ends where the label of demonstration `k` (or the query's) starts."""
    texts = (*(text for text, _ in PROMPT.demonstrations), PROMPT.query)
    return Prompt(texts[k], PROMPT.demonstrations[:k], PROMPT.preamble)


async def test_labels_are_named_by_id_and_the_prompt_goes_out_as_ids(server, serve, connect):
    host = serve(model=TokenModel(bos=True))
    reply = await (await connect()).send(NextTokenRequest(PROMPT, LABELS))
    (asked,) = server.requests("/generate")
    ids = host.model.tokenise(PROMPT.text, True)
    assert asked.body == {
        "input_ids": [ids],
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": -1,
        "top_logprobs_num": 20,
        "token_ids_logprob": [sorted(host.model.id(label) for label in LABELS)],
    }
    for label in LABELS:
        assert value_of(reply, label) == pytest.approx(host.model.logprob(ids, host.model.id(label)))
    assert reply.usage.prompt_tokens == len(ids)
    assert reply.usage.cached_tokens == len(ids) - 1


async def test_a_label_outside_the_list_is_exact_and_leaves_the_floor_alone(serve, connect):
    serve()
    adapter = await connect(top_k=3)
    reply = await adapter.send(NextTokenRequest(PROMPT, (*LABELS, " Unheard")))
    assert value_of(reply, " Unheard") == UNLIKELY_NATS
    assert reply.floor_nats is not None
    assert reply.floor_nats > UNLIKELY_NATS
    assert adapter.capabilities.exact_labels


async def test_labels_that_share_a_first_token_are_told_apart_in_one_request(server, serve, connect):
    host = serve(model=TokenModel((" Yes", " Yesterday"), SPLIT))
    prompt = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " Yes"),) * 3)
    reply = await (await connect()).send(NextTokenRequest(prompt, (" Yes", " Yesterday")))
    ids, begun = host.model.tokenise(prompt.text), host.model.id(" Ye")
    for label, rest in ((" Yes", "s"), (" Yesterday", "sterday")):
        after = host.model.logprob([*ids, begun], host.model.id(rest))
        assert value_of(reply, label) == pytest.approx(host.model.logprob(ids, begun) + after)
    assert len(server.requests("/generate")) == 1


@pytest.mark.parametrize("first_is_own", [True, False])
@pytest.mark.parametrize("marks_start", [True, False])
async def test_a_sequence_tells_at_each_label_what_a_request_for_that_place_tells(
    serve, connect, first_is_own, marks_start
):
    serve(model=TokenModel(bos=True, marks_start=marks_start), first_is_own=first_is_own)
    adapter = await connect()
    wanted = (*LABELS, " Unheard")
    reply = await adapter.send(SequenceRequest(PROMPT, wanted))
    assert len(reply.positions) == 3
    for k, position in enumerate(reply.positions):
        single = await adapter.send(NextTokenRequest(alone(k), wanted))
        for label in wanted:
            assert value_of(position, label) == pytest.approx(value_of(single, label))


async def test_only_what_follows_the_first_scored_label_is_evaluated(server, serve, connect):
    host = serve()
    adapter = await connect()
    whole = await adapter.send(SequenceRequest(PROMPT, LABELS))
    part = await adapter.send(SequenceRequest(PROMPT, LABELS, first=1))
    assert part.positions == whole.positions[1:]
    start = server.requests("/generate")[-1].body["logprob_start_len"]
    ids = host.model.tokenise(PROMPT.text)
    assert ids[start + 1] == host.model.id(" False")
    assert part.usage.cached_tokens == start


async def test_a_sequence_with_nothing_to_score_but_the_query_scores_no_prompt(server, serve, connect):
    serve()
    reply = await (await connect()).send(SequenceRequest(PROMPT, LABELS, first=2))
    assert len(reply.positions) == 1
    assert server.requests("/generate")[-1].body["logprob_start_len"] == -1


async def test_a_token_with_a_blank_is_told_from_one_without(serve, connect):
    host = serve(model=TokenModel((" True", "True"), marks_start=True))
    reply = await (await connect()).send(NextTokenRequest(PROMPT, ()))
    ids = {c.text: c.token_id for c in reply.candidates}
    assert ids[" True"] == host.model.id(" True") != ids["True"]


async def test_texts_of_tokens_are_asked_for_once(server, serve, connect):
    serve()
    adapter = await connect()
    await adapter.send(NextTokenRequest(PROMPT, LABELS))
    before = len(server.requests("/detokenize"))
    await adapter.send(NextTokenRequest(alone(1), LABELS))
    assert len(server.requests("/detokenize")) == before


@pytest.mark.parametrize("old_routes", [True, False])
async def test_it_tells_what_it_is_and_no_secret_of_the_server(serve, connect, old_routes):
    serve(old_routes=old_routes)
    adapter = await connect(model="org/tiny")
    assert adapter.model == "org/tiny"
    assert adapter.identity["settings"]["version"] == "0.5.23"
    assert "hidden" not in str(adapter.identity)
    assert adapter.capabilities.context_tokens == 4096 - 6 - 1
    assert not adapter.capabilities.plain_text_tokens


async def test_sequences_can_be_done_without(serve, connect):
    serve()
    adapter = await connect(echo=False)
    assert not adapter.capabilities.prompt_logprobs
    with pytest.raises(CapabilityError, match="sequence"):
        await adapter.send(SequenceRequest(PROMPT, LABELS))


async def test_tokens_are_counted_without_bos(serve, connect):
    serve(model=TokenModel(bos=True))
    reply = await (await connect()).send(TokenCountRequest(("one two", "", "one")))
    assert reply.counts == (2, 0, 1)


async def test_another_model_than_the_loaded_one_is_refused(serve, connect):
    serve()
    with pytest.raises(RequestError, match="has loaded 'org/tiny'"):
        await connect(model="big")


async def test_a_bad_top_k_is_refused_before_asking(server, connect):
    with pytest.raises(ConfigError, match="top_k"):
        await connect(top_k=0)
    assert not server.asked


def changed(host: Sglang, **parts):
    """The host's replies with parts of what they say replaced."""

    def generate(body):
        replies = host.generate(body)
        for reply in replies:
            reply["meta_info"] |= parts
        return replies

    return generate


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"prompt_tokens": 3}, "was cut"),
        ({"prompt_tokens": None}, "was cut"),
        ({"output_top_logprobs": None}, "return_logprob was ignored"),
        ({"output_top_logprobs": [[[0.0, 1, None]]], "output_token_ids_logprobs": []}, "all 0 or stand-ins"),
        ({"output_top_logprobs": [[[-0.1, None, None]]]}, "no token id"),
        ({"output_top_logprobs": [None]}, "no list where a label stands"),
    ],
)
async def test_replies_that_say_nothing_are_refused(server, serve, connect, parts, problem):
    host = serve()
    adapter = await connect()
    server.answer("/generate", changed(host, **parts))
    with pytest.raises(CapabilityError, match=problem):
        await adapter.send(NextTokenRequest(PROMPT, LABELS))


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"input_token_logprobs": []}, "the prompt was not scored"),
        ({"input_token_logprobs": [[-1.0, 7, None]]}, "not of the prompt's last tokens"),
        ({"input_top_logprobs": []}, "does not cover the label"),
    ],
)
async def test_scores_that_do_not_fit_the_prompt_are_refused(server, serve, connect, parts, problem):
    host = serve()
    adapter = await connect()
    server.answer("/generate", changed(host, **parts))
    with pytest.raises(CapabilityError, match=problem):
        await adapter.send(SequenceRequest(PROMPT, LABELS))


async def test_minus_infinity_written_as_null_is_a_bound(server, serve, connect):
    host = serve()
    adapter = await connect()
    true = host.model.id(" True")
    server.answer("/generate", changed(host, output_token_ids_logprobs=[[[None, true, None]]]))
    reply = await adapter.send(NextTokenRequest(PROMPT, (" Unheard",)))
    assert " Unheard" not in {c.text for c in reply.candidates}
