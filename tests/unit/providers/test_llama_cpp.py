"""The llama.cpp adapter against a scripted server with a vocabulary small enough to check by hand."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from icm_api.errors import CapabilityError, ConfigError, RequestError, TransientError
from icm_api.providers.llama_cpp import LlamaCpp
from icm_api.types import NextTokenReply, NextTokenRequest, Prompt, TokenCountRequest, Usage

PIECES = ["<bos>", "Text:", " a", " b", "\nLabel:", " True", " False", "\n\n", " Ye", "s", "sterday", " odd"]
PROMPT = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " True"),))
PROMPT_IDS = [1, 2, 4, 5, 7, 1, 3, 4]
PROPS = {
    "default_generation_settings": {"n_ctx": 512, "params": {"lora": []}},
    "total_slots": 2,
    "model_alias": "/home/me/tiny.gguf",
    "model_path": "/home/me/tiny.gguf",
    "build_info": "b1",
}
MODELS = {"data": [{"id": "tiny", "meta": {"n_vocab": len(PIECES)}}]}


def ids_of(text: str) -> list[int]:
    ids = []
    while text:
        piece = max((p for p in PIECES[1:] if text.startswith(p)), key=len)
        ids.append(PIECES.index(piece))
        text = text[len(piece) :]
    return ids


class TinyModel:
    """Scripted replies of a server: token k follows any prompt with a probability that depends on both."""

    def __init__(self, bos: Sequence[int] = (), dummy_prefix: bool = False) -> None:
        self.bos, self.dummy_prefix = list(bos), dummy_prefix
        self.obeys = True

    def tokenise(self, body: Any) -> Any:
        ids = ids_of(body["content"])
        lead = [11] if self.dummy_prefix and ids else []
        return {"tokens": (self.bos if body["add_special"] else []) + lead + ids}

    def logprobs(self, ids: list[int]) -> list[float]:
        weights = [1.0 / (1 + (k * 7 + sum(ids)) % len(PIECES)) for k in range(len(PIECES))]
        return [math.log(w / sum(weights)) for w in weights]

    def complete(self, body: Any) -> Any:
        replies = [self._reply(k, ids, body) for k, ids in enumerate(body["prompt"])]
        return replies[::-1] if len(replies) > 1 else replies[0]

    def _generated(self, ids: list[int], body: Any) -> Any:
        values = self.logprobs(ids)
        biased = [value + dict(body.get("logit_bias", []) * self.obeys).get(k, 0.0) for k, value in enumerate(values)]
        chosen = max(range(len(values)), key=biased.__getitem__)
        return {"id": chosen, "token": PIECES[chosen], "logprob": values[chosen]}

    def _reply(self, index: int, ids: list[int], body: Any) -> Any:
        ranked = sorted(enumerate(self.logprobs(ids)), key=lambda pair: -pair[1])[: body["n_probs"]]
        listed = [{"id": k, "token": PIECES[k], "logprob": value} for k, value in ranked]
        cached = len(ids) - 1 if body["cache_prompt"] else 0
        return {
            "index": index,
            "tokens_evaluated": len(ids),
            "timings": {"cache_n": cached, "prompt_n": len(ids) - cached, "predicted_n": 1},
            "completion_probabilities": [{**self._generated(ids, body), "top_logprobs": listed}],
        }


@pytest.fixture
def tiny(server):
    def install(**options):
        model = TinyModel(**options)
        server.answer("/props", PROPS)
        server.answer("/v1/models", MODELS)
        server.answer("/tokenize", model.tokenise)
        server.answer("/completion", model.complete)
        return model

    return install


@pytest.fixture
async def connect(server):
    opened = []

    async def build(**changes):
        opened.append(await LlamaCpp.connect(**{"base_url": server.url, **changes}))
        return opened[-1]

    yield build
    for adapter in opened:
        await adapter.aclose()


def value_of(reply: NextTokenReply, text: str) -> float:
    (found,) = [c.logprob_nats for c in reply.candidates if c.text == text]
    return found


async def test_the_prompt_goes_out_as_ids_with_special_tokens_off(server, tiny, connect):
    tiny()
    await (await connect()).send(NextTokenRequest(PROMPT, (" True", " False")))
    assert all(asked.body["parse_special"] is False for asked in server.requests("/tokenize"))
    assert [asked.body for asked in server.requests("/completion")] == [
        {"prompt": [PROMPT_IDS], "n_predict": 1, "n_probs": 1000, "temperature": 0, "cache_prompt": True}
    ]


async def test_a_model_with_bos_gets_it_once_before_the_prompt(server, tiny, connect):
    tiny(bos=[0])
    adapter = await connect()
    await adapter.send(NextTokenRequest(PROMPT, ()))
    assert server.requests("/completion")[0].body["prompt"] == [[0, *PROMPT_IDS]]
    assert adapter.identity["bos"] == [0]


async def test_every_distinct_chunk_is_tokenised_once(server, tiny, connect):
    tiny()
    adapter = await connect()
    await adapter.send(NextTokenRequest(PROMPT, (" True",)))
    before = len(server.requests("/tokenize"))
    longer = Prompt("Text: a\nLabel:", (("Text: a\nLabel:", " True"), ("Text: b\nLabel:", " True")))
    await adapter.send(NextTokenRequest(longer, (" True",)))
    asked = [request.body["content"] for request in server.requests("/tokenize")[before:]]
    assert asked == ["\n\nText: a\nLabel:"]


async def test_single_token_labels_are_read_by_id_in_one_request(server, tiny, connect):
    model = tiny()
    reply = await (await connect()).send(NextTokenRequest(PROMPT, (" True", " False")))
    expected = model.logprobs(PROMPT_IDS)
    assert value_of(reply, " True") == expected[5]
    assert value_of(reply, " False") == expected[6]
    assert len(server.requests("/completion")) == 1


async def test_labels_that_share_a_first_token_are_told_apart_in_one_request(server, tiny, connect):
    model = tiny()
    reply = await (await connect()).send(NextTokenRequest(PROMPT, (" Yes", " Yesterday", " True")))
    root, after = model.logprobs(PROMPT_IDS), model.logprobs([*PROMPT_IDS, 8])
    assert value_of(reply, " Yes") == pytest.approx(root[8] + after[9])
    assert value_of(reply, " Yesterday") == pytest.approx(root[8] + after[10])
    (asked,) = server.requests("/completion")
    assert asked.body["prompt"] == [PROMPT_IDS, [*PROMPT_IDS, 8]]


async def test_a_label_outside_the_list_is_generated_for_its_own_log_prob_from_an_empty_cache(server, tiny, connect):
    model = tiny()
    expected = model.logprobs(PROMPT_IDS)
    last = min(range(len(PIECES)), key=lambda k: expected[k])
    reply = await (await connect(top_k=2)).send(NextTokenRequest(PROMPT, (PIECES[last],)))
    assert value_of(reply, PIECES[last]) == expected[last]
    first, second = server.requests("/completion")
    assert (first.body["n_probs"], first.body["cache_prompt"]) == (2, True)
    assert (second.body["n_probs"], second.body["cache_prompt"]) == (1, False)
    assert [token_id for token_id, _ in second.body["logit_bias"]] == [last]


async def test_an_affinity_is_one_of_the_servers_slots(server, tiny, connect):
    model = tiny()
    adapter = await connect(top_k=2)
    assert adapter.capabilities.prefix_slots == PROPS["total_slots"] == 2
    last = min(range(len(PIECES)), key=lambda k: model.logprobs(PROMPT_IDS)[k])
    for affinity in (0, 1, 2, 3):
        await adapter.send(NextTokenRequest(PROMPT, (PIECES[last],), affinity=affinity))
    slots = [asked.body["id_slot"] for asked in server.requests("/completion")]
    assert slots == [0, 0, 1, 1, 0, 0, 1, 1], "a label alone is asked in the same slot"


async def test_a_server_that_does_not_tell_its_slots_chooses_one_itself(server, tiny, connect):
    tiny()
    server.answer("/props", {name: value for name, value in PROPS.items() if name != "total_slots"})
    adapter = await connect()
    assert adapter.capabilities.prefix_slots is None
    await adapter.send(NextTokenRequest(PROMPT, (), affinity=1))
    assert "id_slot" not in server.requests("/completion")[0].body


async def test_a_server_that_does_not_generate_what_it_is_told_is_refused_rather_than_guessed(tiny, connect):
    model = tiny()
    model.obeys = False
    last = min(range(len(PIECES)), key=lambda k: model.logprobs(PROMPT_IDS)[k])
    with pytest.raises(CapabilityError, match="did not generate the label token"):
        await (await connect(top_k=2)).send(NextTokenRequest(PROMPT, (PIECES[last],)))


async def test_usage_sums_the_requests_of_one_send(tiny, connect):
    tiny()
    reply = await (await connect()).send(NextTokenRequest(PROMPT, (" Yes",)))
    assert reply.usage == Usage(prompt_tokens=8 + 9, cached_tokens=7 + 8, output_tokens=2)


async def test_usage_is_unknown_when_the_server_does_not_tell(server, tiny, connect):
    model = tiny()
    server.answer("/completion", lambda body: {**model.complete(body), "timings": {}})
    reply = await (await connect()).send(NextTokenRequest(PROMPT, (" True",)))
    assert reply.usage == Usage(None, None, None)


async def test_candidates_are_best_first_and_none_is_listed_twice(tiny, connect):
    tiny()
    reply = await (await connect()).send(NextTokenRequest(PROMPT, (" True", " Yes")))
    values = [c.logprob_nats for c in reply.candidates]
    assert values == sorted(values, reverse=True)
    assert len({c.text for c in reply.candidates}) == len(reply.candidates) == len(PIECES) + 1


async def test_a_begun_label_follows_the_prompt(server, tiny, connect):
    tiny()
    await (await connect()).send(NextTokenRequest(PROMPT, ("s",), continuation=" Ye"))
    assert server.requests("/completion")[0].body["prompt"] == [[*PROMPT_IDS, 8]]


async def test_a_vocabulary_that_marks_text_starts_is_tokenised_whole(server, tiny, connect):
    model = tiny(dummy_prefix=True)
    adapter = await connect()
    reply = await adapter.send(NextTokenRequest(PROMPT, (" True", " Yes")))
    ids = [11, *PROMPT_IDS]
    assert server.requests("/completion")[0].body["prompt"] == [ids, [*ids, 8]]
    assert value_of(reply, " True") == model.logprobs(ids)[5]
    assert adapter.identity["by_chunks"] is False


async def test_a_label_that_merges_with_the_prompt_is_refused(server, tiny, connect):
    model = tiny(dummy_prefix=True)

    def merging(body):
        tokens = model.tokenise(body)["tokens"]
        return {"tokens": [9, 9]} if body["content"].endswith(" Yes") else {"tokens": tokens}

    server.answer("/tokenize", merging)
    with pytest.raises(CapabilityError, match="merges with the end of the prompt"):
        await (await connect()).send(NextTokenRequest(PROMPT, (" Yes",)))


async def test_tokens_are_counted_without_bos(tiny, connect):
    tiny(bos=[0])
    reply = await (await connect()).send(TokenCountRequest(("Text: a", "", " Yes")))
    assert reply.counts == (2, 0, 2)


async def test_an_empty_prompt_or_label_is_never_sent(server, tiny, connect):
    tiny()
    adapter = await connect()
    with pytest.raises(ValueError, match="empty prompt"):
        await adapter.send(NextTokenRequest(Prompt(""), (" True",)))
    with pytest.raises(ValueError, match="empty continuation"):
        await adapter.send(NextTokenRequest(PROMPT, ("",)))
    assert server.requests("/completion") == []


READ = {"index": 0, "tokens_evaluated": len(PROMPT_IDS)}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (READ, "no completion_probabilities"),
        (READ | {"completion_probabilities": []}, "no completion_probabilities"),
        (READ | {"completion_probabilities": [{"id": 1, "top_logprobs": []}]}, "say nothing about the model"),
        (
            READ | {"completion_probabilities": [{"top_logprobs": [{"token": "a", "logprob": -0.5}]}]},
            "without token ids",
        ),
        (READ | {"index": 1}, "do not match"),
        (READ | {"tokens_evaluated": 3}, f"read 3 tokens of a prompt of {len(PROMPT_IDS)}: it was cut"),
        ({"index": 0}, "lacks tokens_evaluated"),
        ([], "do not match"),
        ([None], "do not match"),
        (None, "do not match"),
    ],
)
async def test_a_reply_without_usable_probabilities_or_to_a_cut_prompt_is_refused(
    server, tiny, connect, document, message
):
    tiny()
    server.answer("/completion", document)
    with pytest.raises(CapabilityError, match=message):
        await (await connect()).send(NextTokenRequest(PROMPT, (" True",)))


async def test_a_prompt_too_long_is_told_in_numbers_after_one_request(server, tiny, connect, answer):
    tiny()
    error = {"code": 400, "type": "exceed_context_size_error", "message": "no", "n_prompt_tokens": 900, "n_ctx": 512}
    server.answer("/completion", answer({"error": error}, 400))
    with pytest.raises(RequestError, match="prompt has 900 tokens, the context holds 512"):
        await (await connect()).send(NextTokenRequest(PROMPT, (" True",)))
    assert len(server.requests("/completion")) == 1


async def test_a_server_still_loading_is_transient(server, tiny, connect, answer):
    loading = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
    server.answer("/props", answer(loading, 503))
    with pytest.raises(TransientError, match="Loading model"):
        await connect()
    assert len(server.asked) == 1


async def test_a_server_that_is_down_is_named_with_how_to_start_it(server, connect):
    with pytest.raises(TransientError, match=r"no answer from http://127.0.0.1:1 .*llama-server"):
        await connect(base_url="http://127.0.0.1:1")


async def test_another_model_than_the_loaded_one_is_refused(tiny, connect):
    tiny()
    with pytest.raises(RequestError, match=r"has loaded 'tiny\.gguf', not 'big'"):
        await connect(model="big")
    assert (await connect(model="tiny")).model == "tiny.gguf"


async def test_identity_tells_the_server_but_no_home_directory(server, tiny, connect):
    tiny()
    adapter = await connect(api_key="sk-secret")
    assert adapter.model == "tiny.gguf"
    assert adapter.identity["base_url"] == server.url
    assert adapter.identity["model_meta"] == {"n_vocab": len(PIECES)}
    assert "/home/me" not in repr(adapter.identity)
    assert "sk-secret" not in repr(adapter.identity)
    assert server.asked[0].headers["authorization"] == "Bearer sk-secret"


async def test_known_server_settings_stand_for_the_address(tiny, connect):
    tiny()
    identity = (await connect(server={"flash_attention": False})).identity
    assert identity["server"] == {"flash_attention": False}
    assert "base_url" not in identity


async def test_capabilities_leave_room_for_the_generated_token(tiny, connect):
    tiny()
    capabilities = (await connect()).capabilities
    assert capabilities.context_tokens == 511
    assert capabilities.exact_labels
    assert capabilities.plain_text_tokens


async def test_a_text_that_is_no_llama_server_is_refused(server, tiny, connect):
    tiny()
    server.answer("/props", {"hello": "world"})
    with pytest.raises(CapabilityError, match="this is not a llama"):
        await connect()


async def test_a_list_without_candidates_is_refused(connect):
    with pytest.raises(ConfigError, match="top_k"):
        await connect(top_k=0)


async def test_closing_twice_is_fine(tiny, connect):
    tiny()
    adapter = await connect()
    await adapter.aclose()
    await adapter.aclose()
