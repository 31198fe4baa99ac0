"""The suite that plug-in authors run passes adapters that are right, and catches those that are wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.providers.synthetic import Synthetic
from icm_api.testing import ProviderConformance
from icm_api.types import NextTokenReply, SequenceRequest, TokenCountRequest
from tests.conftest import ScriptedServer
from tests.unit.testing.failing import FailingServer
from tests.unit.testing.toy import chat, complete


class TestSynthetic(ProviderConformance):
    @pytest.fixture
    def open_provider(self) -> Any:
        return Synthetic


class TestOpenAICompatible(ProviderConformance):
    key = "sk-planted-0123456789"
    route: Any = "completions"
    echo = True
    tolerance_nats = 1e-9

    @pytest.fixture
    def host(self, server: ScriptedServer) -> FailingServer:
        server.answer("/v1/completions", complete)
        server.answer("/v1/chat/completions", chat)
        return FailingServer(server, "/v1/completions" if self.route == "completions" else "/v1/chat/completions")

    @pytest.fixture
    def open_provider(self, server: ScriptedServer, host: FailingServer) -> Any:
        return lambda: OpenAICompatible(
            base_url=f"{server.url}/v1", model="toy", api_key=self.key, route=self.route, echo=self.echo
        )


class TestOpenAICompatibleChat(TestOpenAICompatible):
    route = "chat"
    echo = False


# --- the suite catches what is wrong


class Wrong(Synthetic):
    """Wrong in one way."""

    fault = ""

    @property
    def identity(self) -> Any:
        return {**super().identity, **({"opened": id(self)} if self.fault == "an identity that changes" else {})}

    @property
    def capabilities(self) -> Any:
        if self.fault == "says it counts no tokens":
            return replace(super().capabilities, counts_tokens=False)
        return super().capabilities

    async def send(self, request: Any) -> Any:
        if self.fault == "answers what it does not know" and not hasattr(request, "prompt"):
            return None if not isinstance(request, TokenCountRequest) else await super().send(request)
        if self.fault == "reads the query only" and not isinstance(request, TokenCountRequest | SequenceRequest):
            request = replace(request, prompt=replace(request.prompt, demonstrations=()))
        reply = await super().send(request)
        if self.fault == "worst first" and isinstance(reply, NextTokenReply):
            return replace(reply, candidates=reply.candidates[::-1])
        if self.fault == "positions of the next place" and isinstance(request, SequenceRequest):
            return replace(reply, positions=(*reply.positions[1:], reply.positions[0]))
        if self.fault == "cached beside the prompt" and isinstance(reply, NextTokenReply):
            return replace(reply, usage=replace(reply.usage, prompt_tokens=1, cached_tokens=9))
        return reply


class Suite(ProviderConformance):
    """Called by hand below."""


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("an identity that changes", "test_its_identity_is_json_and_the_same_whenever_it_is_opened"),
        ("says it counts no tokens", "test_it_counts_tokens_just_where_it_says_so"),
        ("answers what it does not know", "test_a_kind_of_request_that_nobody_knows_is_refused"),
        ("reads the query only", "test_it_reads_the_whole_prompt"),
        ("worst first", "test_candidates_are_log_probs_best_first_that_sum_to_one_at_most"),
        ("positions of the next place", "test_a_sequence_agrees_with_next_token_requests_for_the_same_places"),
        ("cached beside the prompt", "test_usage_is_unknown_or_a_count_that_includes_the_cached_tokens"),
    ],
)
def test_an_adapter_that_is_wrong_fails_the_check_that_names_its_fault(fault: str, check: str) -> None:
    opened: list[Wrong] = []  # kept, so that no two have one id

    def open_wrong() -> Wrong:
        opened.append(Wrong())
        opened[-1].fault = fault
        return opened[-1]

    getattr(Suite(), check)(Synthetic)
    with pytest.raises(AssertionError):
        getattr(Suite(), check)(open_wrong)


def test_an_adapter_that_retries_by_itself_is_caught() -> None:
    class Host:
        requests = 0

        def fail_next(self) -> None:
            pass

    host = Host()

    class Stubborn(Synthetic):
        async def send(self, request: Any) -> Any:
            from icm_api.errors import TransientError

            host.requests += 3
            raise TransientError("three attempts failed")

    with pytest.raises(AssertionError):
        Suite().test_one_failure_is_one_request_and_its_error_shows_no_key(Stubborn, host)
