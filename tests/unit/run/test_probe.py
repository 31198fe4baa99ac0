"""The probe tells a host that can be relied on from one that cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from icm_api.errors import CapabilityError
from icm_api.providers.synthetic import Synthetic, SyntheticOptions
from icm_api.run.probe import ProbeReport, _agreement, probe
from icm_api.types import LabelScore, NextTokenRequest, Prompt, SequenceRequest
from tests.unit.run.test_scorer import LABELS


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


async def report(spoil: str = "", **options: Any) -> ProbeReport:
    host = Host(SyntheticOptions(**options))
    host.spoil = spoil
    return await probe(host, LABELS)


def statuses(found: ProbeReport) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


async def test_a_sound_host_is_usable():
    found = await report()
    assert found.verdict == "usable"
    assert set(statuses(found).values()) == {"ok"}


async def test_a_host_without_log_probs_is_not_usable():
    assert (await report("no log-probs")).verdict == "not usable"


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
