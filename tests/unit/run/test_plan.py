"""What is planned is what is then asked: every method, with and without echo, siblings, a tight context."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from icm_api.config import RunConfig, load_config
from icm_api.core.anneal import AnnealSettings, anneal
from icm_api.core.context import ContextBuilder
from icm_api.core.problem import Problem
from icm_api.core.sweep import most_asked_alone
from icm_api.errors import ConfigError
from icm_api.providers.synthetic import Synthetic
from icm_api.run.compose import build_search, measure_sizes
from icm_api.run.job import Job, prepare
from icm_api.run.methods import METHODS, sweep_settings
from icm_api.run.outcome import Summary
from icm_api.run.plan import Estimate, Plan, _played, estimate, look_out, plan
from icm_api.run.runner import Result, run
from icm_api.run.scorer import PromptScorer
from icm_api.types import Capabilities, TokenCountRequest

PROSE = "a slow but rather moving film about people who never quite meet and yet change each other for good"
PASSES = ("random-few-shot", "gold-few-shot")
THIRD = {"mood.toml": {"positive": 0.25}}
"""What a class prior says beside "negative" where there are three labels."""
ECHO = pytest.mark.parametrize("echo", [1, 0])
SETTINGS = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"group_column": "group"},
        {"context_tokens": 400},
        {"max_demonstrations": 12},
        {"group_column": "group", "context_tokens": 400},
        {"task": "mood.toml", "labels": None},
    ],
    ids=["plain", "siblings", "tight", "capped", "siblings-tight", "three-labels"],
)


def rows(n: int = 60) -> list[dict[str, object]]:
    draw = random.Random(n)
    return [
        {
            "id": str(i),
            "text": " ".join(draw.choice(PROSE.split()) for _ in range(draw.randint(6, 30))),
            "gold": "negative" if i % 3 else "positive",
            "group": f"g{i // 4}",
        }
        for i in range(n)
    ]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Settings of a run over `rows`, without a cache, over the offline learner."""
    monkeypatch.chdir(tmp_path)
    task = 'name = "mood"\npreamble = "Judge."\ntemplate = "Note: {text}\\nMood:"\n'
    Path("mood.toml").write_text(task + 'labels = ["negative", "neutral or nothing", "positive"]\n')

    def build(echo: int = 1, **settings: Any) -> RunConfig:
        given: dict[str, Any] = {
            "data": "<rows>",
            "task": "classify",
            "labels": "negative,positive",
            "provider": "synthetic",
        }
        given |= {"cache": False, "run_dir": tmp_path / "run", "provider_options": {"echo": str(echo), "noise": "1"}}
        given |= {name: value for name, value in settings.items() if name != "labels"}
        if "labels" in settings:
            del given["labels"]
        return load_config(RunConfig, given, {})

    return build


async def labelled(config: RunConfig, n: int = 60) -> Result:
    return await run(config, {}, rows=rows(n))


def usable(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the method takes."""
    own = {"gold_column": "gold"} if method == "gold-few-shot" else {}
    left_out = {"max_demonstrations"} if method == "zero-shot" else set()
    return own | {name: value for name, value in settings.items() if name not in left_out}


def asked(summary: Summary) -> int:
    """Questions, those included that the run's own replies answered: an example that begins two chains is one."""
    return summary.requests + summary.cache_hits


def looks_like(planned: int, actual: int | None, within: float) -> bool:
    return actual is not None and abs(planned - actual) <= within * actual


@ECHO
@SETTINGS
@pytest.mark.parametrize("method", ["zero-shot", *PASSES, "bootstrap"])
async def test_as_many_requests_are_made_as_planned_and_about_as_many_tokens(config, method, settings, echo):
    summary = (await labelled(config(echo, method=method, **usable(method, settings)))).summary
    assert (summary.planned_kind, summary.planned_requests) == ("exact", asked(summary))
    assert looks_like(summary.planned_prompt_tokens, summary.prompt_tokens, 0.06 if method == "bootstrap" else 0.02)


async def test_bare_questions_are_counted_to_the_token(config):
    summary = (await labelled(config(method="zero-shot"))).summary
    assert summary.planned_prompt_tokens == summary.prompt_tokens


@ECHO
@SETTINGS
@pytest.mark.parametrize("more", [{"passes": 4}, {"pool": 24, "restarts": 2}])
async def test_a_sweep_never_asks_more_than_planned(config, settings, more, echo):
    given = config(
        echo, method="sweep", class_prior={"negative": 0.5, **THIRD.get(settings.get("task"), {})}, **settings, **more
    )
    await check_bound(given, 36)


async def test_a_sweep_that_estimates_the_shares_never_asks_more_than_planned(config):
    await check_bound(config(method="sweep"), 36)


async def check_bound(config: RunConfig, n: int) -> None:
    summary = (await labelled(config, n)).summary
    assert summary.planned_kind == "at most"
    assert summary.requests <= summary.planned_requests
    assert summary.prompt_tokens is not None
    assert summary.prompt_tokens <= 1.02 * summary.planned_prompt_tokens


@ECHO
@pytest.mark.parametrize("settings", [{}, {"group_column": "group"}, {"context_tokens": 400}, {"pool": 24}])
async def test_a_sweep_whose_labels_never_settle_asks_not_much_less_than_was_planned(config, settings, echo):
    """The plan allows for a silent model, two passes of eight more here, or for all asked alone in the end."""
    nothing = {"signal": "0", "prior": "0", "noise": "9", "echo": str(echo)}
    given = config(echo, method="sweep", class_prior={"negative": 0.5}, passes=4, restarts=2, **settings)
    summary = (await labelled(given.model_copy(update={"provider_options": nothing}))).summary
    assert summary.stop_reason == "passes"
    assert asked(summary) <= summary.planned_requests <= 1.3 * asked(summary)
    outlook = await look_out(prepare(given, rows()), Synthetic.from_options(nothing))
    plain = await _played(outlook, "at most")
    alone = 0 if echo else most_asked_alone(outlook.job.problem, sweep_settings(outlook.job), given.seed)
    assert asked(summary) in (plain.requests, plain.requests + alone), "what a model that speaks is asked, exactly"
    assert looks_like(summary.planned_prompt_tokens, summary.prompt_tokens, 0.3)


async def test_rules_do_not_change_what_a_sweep_is_planned_to_ask(config, tmp_path):
    rules = [{"kind": "exactly_one", "ids": [str(i), str(i + 1)]} for i in range(0, 60, 2)]
    summary = (await run(config(method="sweep", passes=3), {}, rows=rows(), rules=rules)).summary
    assert summary.violations == 0
    assert summary.requests <= summary.planned_requests


@pytest.mark.parametrize("settings", [{}, {"group_column": "group"}, {"max_demonstrations": 12}])
async def test_paper_fidelity_asks_at_least_what_was_planned(config, settings):
    summary = (await labelled(config(method="anneal", fidelity="paper", stop="full", **settings), 20)).summary
    assert summary.planned_kind == "at least"
    assert summary.requests >= summary.planned_requests
    assert summary.prompt_tokens is not None
    assert summary.prompt_tokens >= 0.98 * summary.planned_prompt_tokens


async def test_a_paper_search_with_a_limit_on_its_steps_is_no_longer_bounded_from_below(config):
    limited = await planned(config(method="anneal", fidelity="paper", max_steps=20))
    assert (limited.kind, limited.requests) == ("expected", 8 + sum(1 + n for n in range(9, 29)))


async def test_paper_fidelity_without_revisit_or_rejection_asks_exactly_what_was_planned(config):
    """As in `test_synthetic`: one group whose unlabelled members always come first, and infinite heat."""
    job = prepare(config(method="anneal", fidelity="paper"), rows(64))
    provider = Synthetic()
    sizes = await measure_sizes(job, provider)
    planned = await estimate(await look_out(job, provider))
    settings = AnnealSettings(fidelity="paper", stop="full", sibling_weight=1e15, t_start=1e15)
    one_group = Problem.build(2, ["one"] * 64)
    tools = build_search(job, provider, sizes)
    scored = Counting(provider)
    tools = replace(tools, scorer=PromptScorer(scored, job.task.labels, job.texts, min_mass=0.0))
    async for _ in anneal(one_group, tools.scorer, tools.context, settings):
        pass
    assert planned.requests == provider.requests == 2108
    assert looks_like(planned.prompt_tokens, scored.prompt_tokens, 0.02)


class Counting:
    """Adds up what replies cost."""

    def __init__(self, inner: Synthetic, **capabilities: Any) -> None:
        self.inner, self.prompt_tokens = inner, 0
        self.sent: list[Any] = []
        self.name, self.model, self.identity = inner.name, inner.model, inner.identity
        self.capabilities: Capabilities = replace(inner.capabilities, **capabilities)

    async def send(self, request: Any) -> Any:
        self.sent.append(request)
        reply = await self.inner.send(request)
        self.prompt_tokens += reply.usage.prompt_tokens if request.paid else 0
        return reply

    async def aclose(self) -> None: ...


async def test_the_default_search_asks_about_as_much_as_the_benchmark_did(config):
    certain = config(method="anneal").model_copy(update={"provider_options": {}})
    summary = (await labelled(certain)).summary
    assert summary.planned_kind == "expected"
    assert 0.3 < summary.requests / summary.planned_requests < 3


async def test_examples_beyond_the_shown_ones_are_planned_as_one_question_each(config):
    few = await planned(config(method="anneal", max_demonstrations=15), 200)
    all_shown = await planned(config(method="anneal"), 200)
    assert (few.requests, all_shown.requests) == (round(16 * 4.1) + 184, round(200 * 6.2366))


async def planned(config: RunConfig, n: int = 60, **capabilities: Any) -> Estimate:
    outlook = await look_out(prepare(config, rows(n)), Counting(Synthetic(), **capabilities))
    return await estimate(outlook)


# --- hosts without log-probabilities --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zero-shot", "random-few-shot", "bootstrap"])
async def test_votes_are_counted_before_anything_is_paid_for(config, method):
    given = config(method=method, votes=3).model_copy(update={"provider_options": {"choices": "votes"}})
    summary = (await labelled(given, 24)).summary
    assert (summary.planned_kind, summary.planned_requests) == ("exact", asked(summary))
    assert asked(summary) % 3 == 0
    assert looks_like(summary.planned_prompt_tokens, summary.prompt_tokens, 0.06)


async def test_a_run_by_votes_says_so_in_its_rows_its_summary_and_its_warnings(config):
    given = config(method="sweep").model_copy(update={"provider_options": {"choices": "votes"}})
    result = await labelled(given, 16)
    assert result.summary.score_kind == "sampled"
    assert {row.kind for row in result.rows} == {"sampled"}
    assert any("counted answers" in warning for warning in result.summary.warnings)
    assert result.summary.requests <= result.summary.planned_requests
    assert asked(result.summary) % 8 == 0


async def test_stated_probabilities_take_one_request_a_question(config):
    given = config(method="zero-shot").model_copy(update={"provider_options": {"choices": "probabilities"}})
    summary = (await labelled(given, 24)).summary
    assert (summary.requests, summary.planned_requests, summary.score_kind) == (24, 24, "stated")


async def test_the_plan_says_that_questions_are_asked_many_times(config, monkeypatch):
    given = config(votes=5).model_copy(update={"provider_options": {"choices": "votes"}})
    found = await table(given, monkeypatch, 12)
    assert any("asked 5 times (--votes)" in note for note in found.notes)
    assert not any("several tokens" in note for note in found.notes)
    zero_shot = found.estimates[0]
    assert (zero_shot.requests, zero_shot.output_tokens) == (60, 60 * 6)


async def test_votes_for_a_host_with_log_probabilities_are_a_setting_without_effect_and_refused(config):
    with pytest.raises(ConfigError, match="--votes"):
        await planned(config(method="zero-shot", votes=4))


async def test_where_tokens_are_guessed_the_instruction_and_the_labels_offered_are_counted(config):
    job = prepare(config(method="zero-shot"), rows())
    bare = await measure_sizes(job, Counting(Synthetic(), counts_tokens=False))
    asked = await measure_sizes(job, Counting(Synthetic(), counts_tokens=False, choices="votes"))
    assert asked.preamble > bare.preamble + 40
    assert all(more > less for more, less in zip(asked.labels, bare.labels, strict=True))


# --- where the numbers come from ------------------------------------------------------------------------------


async def test_a_plan_asks_nothing_but_how_many_tokens_texts_have(config):
    given = config(method="sweep")
    provider = Counting(Synthetic())
    await estimate(await look_out(prepare(given, rows()), provider))
    assert {type(request) for request in provider.sent} == {TokenCountRequest}
    assert provider.inner.requests == 0


async def test_where_the_host_counts_no_tokens_they_are_guessed_by_the_usual_ratio_and_nothing_is_sent(config):
    job = prepare(config(method="zero-shot"), rows())
    provider = Counting(Synthetic(), counts_tokens=False)
    guess = await estimate(await look_out(job, provider))
    assert provider.sent == []
    assert guess.prompt_tokens == round(sum(len(text.encode()) for text in job.texts) / 4)


async def test_contexts_are_still_fitted_by_the_cautious_ratio_where_the_host_counts_no_tokens(config):
    job = prepare(config(), rows())
    sizes = await measure_sizes(job, Counting(Synthetic(), counts_tokens=False))
    assert all(
        bound > (len(text.encode()) + len(" negative") + 2) / 2.5
        for bound, text in zip(sizes.bounds, job.texts, strict=True)
    )


async def test_walks_over_a_prefix_cache_are_planned_to_find_all_but_the_new_part_there(config):
    given = config(0, method="random-few-shot")
    known = await planned(given, prompt_logprobs=False, prefix_slots=1)
    unknown = await planned(given, prompt_logprobs=False)
    summary = (await labelled(given)).summary
    assert unknown.cached_tokens is None
    assert summary.cached_tokens is not None
    assert known.cached_tokens is not None
    assert known.prompt_tokens == unknown.prompt_tokens
    assert looks_like(known.cached_tokens, summary.cached_tokens, 0.02)


async def test_a_row_is_the_same_alone_and_in_the_table_and_the_context_builder_counts_nothing(config, monkeypatch):
    given = config(method="bootstrap", context_tokens=400)
    job = prepare(given, rows())
    outlook = await look_out(job, Synthetic())
    alone = await estimate(outlook)
    assert isinstance(outlook.tools.context, ContextBuilder)
    assert (outlook.tools.context.capped, outlook.tools.context.bare) == (0, 0)
    assert alone in (await table(given, monkeypatch)).estimates


async def table(config: RunConfig, monkeypatch: pytest.MonkeyPatch, n: int = 60) -> Plan:
    def with_rows(given: RunConfig) -> Job:
        return prepare(given, rows(n))

    monkeypatch.setattr("icm_api.run.plan.prepare", with_rows)
    return await plan(config, {})


async def test_the_table_has_every_method_and_a_pool_where_there_are_more_examples(config, monkeypatch):
    blind = ["zero-shot", "random-few-shot", "bootstrap", "anneal", "anneal --fidelity paper", "sweep"]
    small = await table(config(), monkeypatch)
    assert [row.method for row in small.estimates] == blind
    large = await table(config(gold_column="gold"), monkeypatch, n=300)
    assert [row.method for row in large.estimates] == [*blind, "sweep --pool 256", "gold-few-shot"]
    assert {row.method.split()[0] for row in large.estimates} == set(METHODS)


@pytest.mark.parametrize(
    ("settings", "row"),
    [
        ({"method": "anneal"}, "anneal"),
        ({"method": "anneal", "fidelity": "paper"}, "anneal --fidelity paper"),
        ({"method": "sweep"}, "sweep"),
        ({"method": "sweep", "pool": 30}, "sweep --pool 30"),
        ({"method": "sweep", "pool": 500}, "sweep"),
        ({"method": "zero-shot"}, "zero-shot"),
    ],
)
async def test_the_row_of_the_settings_is_marked(config, monkeypatch, settings, row):
    found = await table(config(**settings), monkeypatch)
    assert [each.method for each in found.estimates if each.chosen] == [row]


# --- money ----------------------------------------------------------------------------------------------------


async def test_a_stated_price_prices_every_row_exactly(config, monkeypatch):
    found = await table(config(price="2/0.5/3"), monkeypatch)
    assert found.price is not None
    for row in found.estimates:
        assert row.cost_usd == (2 * row.prompt_tokens + 3 * row.output_tokens) / Decimal(10**6)
    assert found.as_json()["price_source"] == "--price"


async def test_an_unknown_price_is_unknown_and_never_nothing(config, monkeypatch):
    monkeypatch.setattr("icm_api.run.compose.find_price", lambda *_, **__: None)
    found = await table(config(), monkeypatch)
    assert {row.cost_usd for row in found.estimates} == {None}
    assert found.as_json()["plan"][0]["cost_usd"] is None
    assert "state one with --price" in found.notes[0]
    summary = (await labelled(config(method="zero-shot"))).summary
    assert (summary.cost_usd, summary.price_source) == (None, None)


async def test_a_run_that_is_cut_short_keeps_its_cost_and_its_plan(config):
    result = await labelled(config(method="anneal", price="1/1", max_requests=20))
    summary = result.summary
    assert result.error is not None
    assert summary.prompt_tokens is not None
    assert summary.output_tokens is not None
    assert Decimal(summary.cost_usd or "0") == Decimal(summary.prompt_tokens + summary.output_tokens) / 10**6 > 0
    assert summary.planned_requests > 20
