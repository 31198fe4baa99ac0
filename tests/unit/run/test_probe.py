"""The probe tells a host that can be relied on from one that cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from icm_api.client.prices import parse_price
from icm_api.errors import CapabilityError
from icm_api.providers.synthetic import Synthetic, SyntheticOptions
from icm_api.run.probe import _agreement, probe
from icm_api.run.probe_record import ProbeRecord
from icm_api.types import (
    Candidate,
    ChoiceReply,
    ChoiceRequest,
    LabelScore,
    NextTokenRequest,
    Prompt,
    SequenceRequest,
    Usage,
)
from tests.unit.run.test_scorer import LABELS

PRICE = parse_price("1/2")


class Host(Synthetic):
    """The offline learner, spoilt in one way."""

    spoil = ""
    asked = 0

    async def send(self, request: Any) -> Any:
        self.asked += 1
        if self.spoil == "no log-probs":
            raise CapabilityError("no log-probs")
        if isinstance(request, SequenceRequest):
            return await self._echo(request)
        if self.spoil == "stand-ins":
            reply = await super().send(request)
            return replace(reply, candidates=(*reply.candidates, Candidate(" x", -9999.0)))
        if self.spoil == "no log-probs of these labels" and LABELS[0].text in request.wanted:
            raise CapabilityError("the labels cannot be told apart")
        if self.spoil == "drops all but the query":
            request = NextTokenRequest(Prompt(request.prompt.query), request.wanted)
        if self.spoil == "cuts the start":
            prompt = request.prompt
            request = NextTokenRequest(Prompt(prompt.query, prompt.demonstrations[1:]), request.wanted)
        if self.spoil == "jitters":
            prompt = Prompt(request.prompt.query, request.prompt.demonstrations, f"call {self.asked}")
            request = NextTokenRequest(prompt, request.wanted)
        return await super().send(request)

    async def _echo(self, request: SequenceRequest) -> Any:
        if self.spoil == "ignores echo":
            raise CapabilityError("the host ignored echo")
        reply = await super().send(request)
        if self.spoil == "off by one":
            positions = (*reply.positions[1:], reply.positions[0])
            return replace(reply, positions=positions)
        return reply


async def report(spoil: str = "", **options: Any) -> ProbeRecord:
    host = Host(SyntheticOptions(**options))
    host.spoil = spoil
    return await probe(host, LABELS, price=PRICE)


def statuses(found: ProbeRecord) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


async def test_a_sound_host_is_usable():
    found = await report()
    assert found.verdict == "usable"
    assert set(statuses(found).values()) == {"ok"}


async def test_a_host_without_log_probs_is_not_usable():
    assert (await report("no log-probs")).verdict == "not usable"


async def test_a_list_with_stand_ins_is_not_usable():
    found = await report("stand-ins")
    assert [check.name for check in found.failed] == ["log-probs"]
    assert "stand-in such as -9999" in found.failed[0].detail


async def test_what_fails_for_the_users_labels_only_is_no_fault_of_the_host():
    found = await report("no log-probs of these labels")
    assert [check.name for check in found.failed] == ["labels in reach"]
    assert statuses(found)["log-probs"] == "ok"


async def test_each_check_that_fails_or_warns_says_what_to_do_instead():
    spoilt = ["no log-probs", "stand-ins", "drops all but the query", "off by one", "ignores echo"]
    found = [await report(spoil) for spoil in spoilt] + [await report(mass=0.02, top_k=60)]
    assert [check for each in found for check in each.checks if check.status != "ok" and not check.instead] == []


async def test_it_asks_a_dozen_questions_at_most_and_says_how_many():
    host = Host(SyntheticOptions())
    found = await probe(host, LABELS, price=PRICE)
    assert found.requests == host.asked <= 12


async def test_an_unknown_price_and_context_are_a_warning():
    found = await probe(Host(SyntheticOptions()), LABELS, price=None)
    assert statuses(found)["price"] == "warn"
    assert found.verdict == "usable with care"


async def test_cached_tokens_are_told_as_the_replies_say():
    found = {check.name: check.detail for check in (await report()).checks}
    assert "cached" in found["usage reported"]


async def test_a_host_that_does_not_read_the_prompt_is_not_usable():
    found = await report("drops all but the query")
    assert statuses(found)["answers to the last label of the prompt"] == "fail"
    assert not found.usable


async def test_a_host_that_cuts_the_start_of_the_prompt_is_not_usable():
    found = await report("cuts the start")
    assert statuses(found)["answers to the first label of the prompt"] == "fail"
    assert statuses(found)["answers to the last label of the prompt"] == "ok"


async def test_numbers_that_change_from_call_to_call_are_a_warning():
    found = await report("jitters", noise=1.0, echo=0)
    assert statuses(found)["repeated call"] == "warn"
    assert found.verdict == "usable with care"


async def test_labels_with_little_probability_are_a_warning():
    assert statuses(await report(mass=0.02, top_k=60))["labels in reach"] == "warn"


async def test_prompt_log_probs_that_agree_with_next_token_requests_are_sound():
    assert statuses(await report())["prompt log-probs"] == "ok"
    assert "prompt log-probs" not in statuses(await report(echo=0))


async def test_prompt_log_probs_of_the_wrong_place_are_not_usable():
    found = await report("off by one")
    assert statuses(found)["prompt log-probs"] == "fail"
    assert not found.usable


async def test_a_host_that_ignores_echo_is_not_usable_with_it():
    found = await report("ignores echo")
    assert statuses(found)["prompt log-probs"] == "fail"
    assert statuses(found)["repeated call"] == "ok", "the other checks are still reported"


def test_labels_that_are_only_bounded_are_not_compared():
    known, hidden = LabelScore((-0.1, -2.4), 0.5, (False, False)), LabelScore((-0.1, -2.4), 0.5, (True, False))
    other = LabelScore((-0.1, -2.4), 0.5, (False, True))
    assert _agreement([known], [known]).status == "ok"
    assert _agreement([hidden], [other]).status == "warn"
    assert "not comparable" in _agreement([hidden], [other]).detail


# --- hosts that choose a label


class Chooser(Synthetic):
    """Judges by one word of the claim, or in another way."""

    kind: Any = "votes"
    way = ""
    asked = 0

    @property
    def capabilities(self) -> Any:
        return replace(super().capabilities, choices=self.kind, prompt_logprobs=False)

    async def send(self, request: Any) -> Any:
        assert isinstance(request, ChoiceRequest)
        self.asked += 1
        if self.way == "refuses":
            raise CapabilityError("the model answered 'I would rather not'")
        if (self.way == "declines one" and self.asked == 1) or self.way == "declines all":
            return ChoiceReply((), Usage(30, 0, 1), self.model, "the model refuses")
        chosen = LABELS[0].text if "moon" in request.prompt.query else LABELS[1].text
        best = {
            "by place": 0,
            "always the same": request.labels.index(LABELS[1].text),
            "by chance": (self.asked // 2) % 2,
        }.get(self.way, request.labels.index(chosen))
        certain = 0.5 if self.way == "half a vote" else 1.0 if self.kind == "votes" else 0.8
        shares = tuple(certain if k == best else 1 - certain for k in range(2))
        return ChoiceReply(shares, Usage(30, 0, 1), self.model)


async def chooser_report(way: str = "", kind: str = "votes") -> ProbeRecord:
    host = Chooser()
    host.way, host.kind = way, kind
    found = await probe(host, LABELS, price=PRICE, votes=8)
    assert found.requests == host.asked <= (8 if kind == "votes" else 4)
    return found


async def test_a_host_that_votes_is_probed_by_what_it_chooses():
    found = await chooser_report()
    assert found.verdict == "usable"
    assert {c.name: c.detail for c in found.checks}["requests a question"].startswith("8 ")


async def test_a_host_that_states_probabilities_costs_one_request_a_question():
    found = await chooser_report(kind="probabilities")
    assert {c.name: c.detail for c in found.checks}["requests a question"].startswith("1 ")


async def test_a_host_that_answers_by_the_place_of_an_option_is_not_usable():
    assert [check.name for check in (await chooser_report("by place")).failed] == ["same answer in another order"]


async def test_drawn_answers_that_change_by_chance_are_a_warning_and_no_fault_of_the_host():
    found = await chooser_report("by chance")
    assert (statuses(found)["same answer in another order"], found.verdict) == ("warn", "usable with care")


async def test_an_answer_that_names_no_label_is_a_warning_and_only_such_answers_a_fault():
    found = await chooser_report("declines one")
    assert statuses(found)["answers with a label"] == "warn"
    assert "1 of 8 answers name none of the labels: the model refuses" in found.checks[0].detail
    assert [check.name for check in (await chooser_report("declines all")).failed] == ["answers with a label"]


async def test_one_answer_to_all_is_a_warning():
    found = await chooser_report("always the same")
    assert statuses(found)["tells a true claim from a false one"] == "warn"


async def test_answers_that_are_no_labels_are_not_usable():
    assert [check.name for check in (await chooser_report("refuses")).failed] == ["answers with a label"]
    assert "no probabilities" not in (await chooser_report()).checks[0].detail
    assert "a vote names one label" in (await chooser_report("half a vote")).failed[0].detail
