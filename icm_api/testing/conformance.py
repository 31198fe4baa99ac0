"""What must hold of every provider, as tests to inherit. See `icm_api.testing`."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

import pytest

from icm_api.core.replies import list_faults, share_faults
from icm_api.errors import CapabilityError, ProviderError, RetryableError
from icm_api.providers.base import Provider
from icm_api.types import (
    Candidate,
    ChoiceReply,
    ChoiceRequest,
    NextTokenReply,
    NextTokenRequest,
    Prompt,
    Request,
    SequenceRequest,
    TokenCountRequest,
    Usage,
)

T = TypeVar("T")
Open: TypeAlias = Callable[[], "Provider | Awaitable[Provider]"]
Answer: TypeAlias = NextTokenReply | ChoiceReply


class CountingHost(Protocol):
    """A test server that counts what it is asked and can be told to fail."""

    @property
    def requests(self) -> int:
        """Requests received so far."""

    def fail_next(self) -> None:
        """Answer the next request with a passing failure, such as HTTP 500."""


class Unheard(Request[None]):
    """A kind of request that no provider knows."""

    kind = "unheard"
    paid = False


class ProviderConformance:
    """Inherit from it, override `open_provider`, and pytest runs every check on your adapter."""

    labels: ClassVar[tuple[str, ...]] = (" True", " False")
    demonstrations: ClassVar[tuple[tuple[str, str], ...]] = (
        ("Claim: Two is a number.\nI think this claim is", " True"),
        ("Claim: Fire is cold.\nI think this claim is", " False"),
        ("Claim: Cats are animals.\nI think this claim is", " True"),
        ("Claim: Stones can sing.\nI think this claim is", " False"),
    )
    queries: ClassVar[tuple[str, ...]] = (
        "Claim: Water is wet.\nI think this claim is",
        "Claim: The sun is made of cheese.\nI think this claim is",
        "Claim: Dogs can bark.\nI think this claim is",
    )
    finishes_labels: ClassVar[tuple[str, str]] = (" very", " true")
    tolerance_nats: ClassVar[float] = 0.05
    key: ClassVar[str | None] = None

    @pytest.fixture
    def open_provider(self) -> Open:
        """A function without arguments that gives a new, open adapter (or an awaitable of one)."""
        raise NotImplementedError("override the fixture `open_provider`")

    @pytest.fixture
    def host(self) -> CountingHost | None:
        """The server behind the adapter, where it counts and fails on demand; None: those checks are skipped."""
        return None

    # --- what it says of itself

    def test_its_identity_is_json_and_the_same_whenever_it_is_opened(self, open_provider: Open) -> None:
        first, again = (_with(open_provider, lambda p: _now(dict(p.identity))) for _ in range(2))
        assert json.dumps(first, sort_keys=True, allow_nan=False) == json.dumps(again, sort_keys=True)
        assert first, "an empty identity would share its cached replies with every other host"

    def test_it_has_a_name_and_a_model(self, open_provider: Open) -> None:
        name, model = _with(open_provider, lambda p: _now((p.name, p.model)))
        assert name
        assert isinstance(model, str)

    def test_its_key_shows_up_nowhere(self, open_provider: Open) -> None:
        if self.key is None:
            pytest.skip("no key was given (attribute `key`)")
        shown = _with(open_provider, lambda p: _now(f"{p!r} {dict(p.identity)} {p.capabilities} {p.name} {p.model}"))
        assert self.key not in shown

    # --- what it answers, against what it says that it can

    def test_it_tells_log_probs_or_chooses_and_refuses_the_other(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            asked = [_next_token(self._prompt(), self.labels), ChoiceRequest(self._prompt(), self.labels)]
            offered = [provider.capabilities.choices is None, provider.capabilities.choices is not None]
            assert [await _answers(provider, request) for request in asked] == offered

        _with(open_provider, check)

    def test_it_answers_for_whole_sequences_just_where_it_says_so(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            request = SequenceRequest(self._prompt(), self.labels)
            assert await _answers(provider, request) == provider.capabilities.prompt_logprobs

        _with(open_provider, check)

    def test_it_counts_tokens_just_where_it_says_so(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            request = TokenCountRequest((self.queries[0], self._prompt().text))
            assert await _answers(provider, request) == provider.capabilities.counts_tokens
            if provider.capabilities.counts_tokens:
                short, long = (await provider.send(request)).counts
                assert 0 < short < long

        _with(open_provider, check)

    def test_a_kind_of_request_that_nobody_knows_is_refused(self, open_provider: Open) -> None:
        assert _with(open_provider, lambda p: _answers(p, Unheard())) is False

    def test_it_goes_on_inside_a_label_just_where_it_says_so(self, open_provider: Open) -> None:
        begun, rest = self.finishes_labels

        async def check(provider: Provider) -> None:
            if provider.capabilities.choices:
                pytest.skip("it tells no log-probs")
            request = NextTokenRequest(self._prompt(), (rest,), continuation=begun)
            assert await _answers(provider, request) == provider.capabilities.continues_label

        _with(open_provider, check)

    # --- log-probabilities

    def test_candidates_are_log_probs_best_first_that_sum_to_one_at_most(self, open_provider: Open) -> None:
        reply = _with(open_provider, self._log_probs)
        assert list_faults(reply.candidates, reply.floor_nats) == []

    def test_it_lists_no_more_candidates_than_it_says(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            most = provider.capabilities.max_top_k
            reply = await self._log_probs(provider)
            assert most is None or len(reply.candidates) <= most + len(self.labels)

        _with(open_provider, check)

    def test_every_label_is_listed_where_labels_are_exact(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            if not provider.capabilities.exact_labels:
                pytest.skip("it does not say that labels are exact")
            assert set(self.labels) <= {c.text for c in (await self._log_probs(provider)).candidates}

        _with(open_provider, check)

    def test_it_reads_the_whole_prompt(self, open_provider: Open) -> None:
        """Another label of the first or the last demonstration, or another query, moves some number."""

        async def check(provider: Provider) -> None:
            first = await self._log_probs(provider)
            changed = [self._prompt(flipped=0), self._prompt(flipped=-1), Prompt(self.queries[1], self.demonstrations)]
            for prompt in changed:
                reply = await provider.send(_next_token(prompt, self.labels))
                assert reply.candidates != first.candidates, "a part of the prompt is not read"

        _with(open_provider, check)

    # --- sequences

    def test_a_sequence_agrees_with_next_token_requests_for_the_same_places(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            whole = await provider.send(SequenceRequest(self._sequence(provider), self.labels))
            assert len(whole.positions) == len(self.demonstrations) + 1
            for k, (query, _) in enumerate((*self.demonstrations, (self.queries[0], ""))):
                alone = await provider.send(_next_token(Prompt(query, self.demonstrations[:k]), self.labels))
                self._assert_close(whole.at(k).candidates, alone.candidates)

        _with(open_provider, check)

    def test_a_sequence_is_scored_from_its_first_position_on(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            prompt = self._sequence(provider)
            whole = await provider.send(SequenceRequest(prompt, self.labels))
            rest = await provider.send(SequenceRequest(prompt, self.labels, first=2))
            assert len(rest.positions) == len(whole.positions) - 2
            self._assert_close(rest.positions[0].candidates, whole.positions[2].candidates)

        _with(open_provider, check)

    def test_all_positions_of_a_sequence_are_log_probs(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            reply = await provider.send(SequenceRequest(self._sequence(provider), self.labels))
            assert [list_faults(each.candidates, each.floor_nats) for each in reply.positions] == [[]] * len(
                reply.positions
            )

        _with(open_provider, check)

    # --- choices

    def test_shares_are_one_a_label_and_sum_to_one(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            for draw in range(3):
                reply = await provider.send(ChoiceRequest(self._prompt(), self._offered(provider), draw))
                votes = provider.capabilities.choices == "votes"
                assert share_faults(reply.shares, len(self.labels), votes=votes) == []

        _with(open_provider, check)

    def test_shares_follow_the_order_in_which_labels_are_offered(self, open_provider: Open) -> None:
        """The same label wins in both orders."""

        async def check(provider: Provider) -> None:
            offered = self._offered(provider)
            winners = set()
            for labels in (offered, offered[::-1]):
                shares = (await provider.send(ChoiceRequest(self._prompt(), labels))).shares
                winners.add(labels[shares.index(max(shares))])
            assert len(winners) == 1, f"the answer changes with the order: {winners}"

        _with(open_provider, check)

    # --- usage, failures, many at once, the end

    def test_usage_is_unknown_or_a_count_that_includes_the_cached_tokens(self, open_provider: Open) -> None:
        usage: Usage = _with(open_provider, self._ask).usage
        told = [n for n in (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens) if n is not None]
        assert all(isinstance(n, int) and n >= 0 for n in told)
        if usage.prompt_tokens is not None:
            assert usage.prompt_tokens > 0
            assert (usage.cached_tokens or 0) <= usage.prompt_tokens

    def test_requests_at_the_same_time_keep_their_replies(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            requests = [self._question(provider, query) for query in self.queries for _ in range(3)]
            alone = [await provider.send(request) for request in requests[::3]]
            together = await asyncio.gather(*(provider.send(request) for request in requests))
            for k, reply in enumerate(together):
                self._assert_same(reply, alone[k // 3])

        _with(open_provider, check)

    def test_one_failure_is_one_request_and_its_error_shows_no_key(
        self, open_provider: Open, host: CountingHost | None
    ) -> None:
        """Retries belong to the client around the adapter: an SDK that retries by itself multiplies them."""
        if host is None:
            pytest.skip("no host that counts and fails was given (fixture `host`)")

        async def check(provider: Provider) -> None:
            host.fail_next()
            before = host.requests
            with pytest.raises(RetryableError) as failure:
                await self._ask(provider)
            assert host.requests == before + 1
            assert isinstance(failure.value, ProviderError)
            assert self.key is None or self.key not in f"{failure.value!r} {failure.value}"
            await self._ask(provider)

        _with(open_provider, check)

    def test_a_cancelled_request_leaves_it_usable(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            expected = await self._ask(provider)
            for turns in (1, 3, 10):
                task = asyncio.ensure_future(self._ask(provider))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait((task,))
            self._assert_same(await self._ask(provider), expected)

        _with(open_provider, check)

    def test_it_can_be_closed_twice(self, open_provider: Open) -> None:
        async def check(provider: Provider) -> None:
            await self._ask(provider)
            await provider.aclose()
            await provider.aclose()

        _with(open_provider, check)

    # --- parts

    def _prompt(self, flipped: int | None = None) -> Prompt:
        """A few-shot prompt; `flipped`: the demonstration that is shown with another label."""
        shown = list(self.demonstrations)
        if flipped is not None:
            text, label = shown[flipped]
            shown[flipped] = (text, next(other for other in self.labels if other != label))
        return Prompt(self.queries[0], tuple(shown))

    def _sequence(self, provider: Provider) -> Prompt:
        if not provider.capabilities.prompt_logprobs:
            pytest.skip("it answers for no sequences")
        return self._prompt()

    def _offered(self, provider: Provider) -> tuple[str, ...]:
        if provider.capabilities.choices is None:
            pytest.skip("it tells log-probs instead of choosing")
        return self.labels

    def _question(self, provider: Provider, query: str) -> Request[Answer]:
        prompt = Prompt(query, self.demonstrations)
        if provider.capabilities.choices:
            return ChoiceRequest(prompt, self.labels)
        return _next_token(prompt, self.labels)

    async def _ask(self, provider: Provider) -> Answer:
        return await provider.send(self._question(provider, self.queries[0]))

    async def _log_probs(self, provider: Provider) -> NextTokenReply:
        if provider.capabilities.choices:
            pytest.skip("it tells no log-probs")
        return await provider.send(_next_token(self._prompt(), self.labels))

    def _assert_same(self, reply: Answer, expected: Answer) -> None:
        """Two answers to one question. Votes may differ; what a vote is about may not, and shows in its size."""
        if isinstance(reply, NextTokenReply) and isinstance(expected, NextTokenReply):
            self._assert_close(reply.candidates, expected.candidates)
        else:
            assert type(reply) is type(expected)
            assert reply.usage.prompt_tokens == expected.usage.prompt_tokens

    def _assert_close(self, some: Sequence[Candidate], others: Sequence[Candidate]) -> None:
        """Labels listed in both have the same log-probability, and one at least is."""
        found, expected = _by_text(some, self.labels), _by_text(others, self.labels)
        both = found.keys() & expected.keys()
        assert both, "no label is listed in both"
        assert {label: found[label] for label in both} == pytest.approx(
            {label: expected[label] for label in both}, abs=self.tolerance_nats
        )


def _next_token(prompt: Prompt, labels: tuple[str, ...]) -> NextTokenRequest:
    return NextTokenRequest(prompt, labels)


def _by_text(candidates: Sequence[Candidate], labels: Sequence[str]) -> dict[str, float]:
    """The likeliest candidate of each label."""
    return {c.text: c.logprob_nats for c in reversed(candidates) if c.text in labels}


async def _answers(provider: Provider, request: Request[Any]) -> bool:
    """False: refused with a CapabilityError."""
    try:
        await provider.send(request)
    except CapabilityError:
        return False
    return True


async def _now(value: T) -> T:
    return value


def _with(open_provider: Open, use: Callable[[Provider], Awaitable[T]]) -> T:
    """Open an adapter, use it and close it, in an event loop of their own."""

    async def job() -> T:
        opened = open_provider()
        provider = await opened if inspect.isawaitable(opened) else opened
        try:
            return await use(provider)
        finally:
            await provider.aclose()

    return asyncio.run(job())
