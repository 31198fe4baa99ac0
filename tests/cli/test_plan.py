"""`icm-api plan`, and how a run reports what it cost beside what was planned."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from icm_api.providers.gemini import ROOM_BESIDE_BUDGET
from icm_api.providers.synthetic import Synthetic

CLASSIFY = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic")
RUN = (*CLASSIFY, "--run-dir", "run", "--method", "zero-shot")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every request that reaches the provider."""
    requests: list[Any] = []
    send = Synthetic.send

    async def listen(self: Synthetic, request: Any) -> Any:
        requests.append(request)
        return await send(self, request)

    monkeypatch.setattr(Synthetic, "send", listen)
    return requests


def test_the_table_has_a_row_for_each_method_and_marks_the_one_asked_for(icm, reviews):
    done = icm("plan", reviews, *CLASSIFY, "--gold-column", "gold", "--method", "bootstrap")
    assert done.code == 0, done.err
    methods = [line.strip("* ").split("  ")[0] for line in done.out.splitlines()[1:8]]
    assert methods == [
        *("zero-shot", "random-few-shot", "bootstrap", "anneal", "anneal --fidelity paper", "sweep", "gold-few-shot")
    ]
    marked = [line for line in done.out.splitlines() if line.startswith("*")]
    assert [line.split()[1] for line in marked] == ["bootstrap"]
    assert "tokens: counted by the host" in done.out


def test_nothing_that_is_paid_for_is_sent_and_nothing_is_written(icm, reviews, asked):
    icm("plan", reviews, *CLASSIFY, "--out", "labels.jsonl", "--run-dir", "run")
    assert asked
    assert not any(request.paid for request in asked)
    assert not Path("run").exists()
    assert not Path("labels.jsonl").exists()


def test_json_prints_the_same_rows(icm, reviews):
    found = icm("plan", reviews, *CLASSIFY, "--json", "--price", "1/2").json
    zero_shot = found["plan"][0]
    assert (zero_shot["method"], zero_shot["kind"], zero_shot["requests"]) == ("zero-shot", "exact", 12)
    assert float(zero_shot["cost_usd"]) == pytest.approx((zero_shot["prompt_tokens"] + 2 * 12) / 1e6)
    assert [row["method"] for row in found["plan"] if row["chosen"]]
    assert found["price_source"] == "--price"


def test_the_flags_of_run_are_those_of_plan(icm):
    def flags(command: str) -> set[str]:
        return {word.strip(",") for word in icm(command, "--help").out.split() if word.startswith("--")}

    assert flags("plan") == flags("run")


def test_a_hosted_provider_is_planned_for_without_a_key_and_the_plan_says_that_nothing_was_asked(
    icm, reviews, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    hosted = ("--task", "classify", "--labels", "negative,positive", "--provider", "openai", "--model", "gpt-4o-mini")
    done = icm("plan", reviews, *hosted)
    assert done.code == 0, done.err
    assert "nothing was asked of the host" in done.out
    refused = icm("run", reviews, *hosted, "--run-dir", "run")
    assert (refused.code, "OPENAI_API_KEY" in refused.err) == (2, True)


def test_a_model_that_thinks_is_planned_for_with_its_thoughts(icm, reviews):
    asked = ("--task", "classify", "--labels", "negative,positive", "--provider", "gemini", "--route", "votes")
    rows = [
        icm("plan", reviews, *asked, "--model", "gemini-2.5-pro", "--provider-option", f"thinking={budget}", "--json")
        for budget in (0, 1000)
    ]
    bare, thoughtful = (row.json["plan"][0] for row in rows)
    assert thoughtful["output_tokens"] == bare["output_tokens"] + bare["requests"] * (1000 + ROOM_BESIDE_BUDGET)
    assert "the model thinks before it answers: 1,128 tokens" in " ".join(rows[1].json["notes"])


def test_an_unknown_price_is_called_unknown_and_never_nothing(icm, reviews, monkeypatch):
    monkeypatch.setattr("icm_api.run.compose.find_price", lambda *_, **__: None)
    planned = icm("plan", reviews, *CLASSIFY)
    assert "$" not in planned.out
    assert planned.out.splitlines()[1].split()[-1] == "unknown"
    assert "state one with --price" in planned.out
    done = icm("run", reviews, *RUN, "--json")
    assert (done.json["cost_usd"], done.json["price_source"]) == (None, None)
    assert "cost: unknown, as no price is known" in done.err
    assert "$" not in done.err


def tier(name: str) -> tuple[str, ...]:
    body = json.dumps({"service_tier": name})
    return (
        "--task",
        "classify",
        "--labels",
        "negative,positive",
        "--provider",
        "openai",
        "--model",
        "gpt-4.1-mini",
        "--extra-body",
        body,
    )


def test_a_service_tier_has_its_own_price_in_the_plan_and_an_unknown_one_has_none(icm, reviews):
    usual, priority = (icm("plan", reviews, *tier(name), "--json").json for name in ("default", "priority"))
    assert Decimal(priority["plan"][0]["cost_usd"]) > Decimal(usual["plan"][0]["cost_usd"])
    unknown = icm("plan", reviews, *tier("scale"))
    assert "$" not in unknown.out
    assert "no price is known for service tier 'scale' (--extra-body) of this model at this host" in unknown.out


def test_a_limit_in_dollars_is_refused_for_a_service_tier_without_a_price(icm, reviews, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "no-key")
    done = icm("run", reviews, *tier("scale"), "--max-usd", "1")
    assert (done.code, "--max-usd: no price is known for service tier 'scale'" in done.err) == (2, True)
    assert not list(Path("runs").glob("*"))


def test_a_server_of_your_own_costs_nothing(icm, reviews):
    assert "price: a server of your own" in icm("plan", reviews, *CLASSIFY).out
    done = icm("run", reviews, *RUN, "--json")
    assert (done.json["cost_usd"], done.json["price_source"]) == ("0", "a server of your own")
    assert "cost: $0 (price: a server of your own)" in done.err


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_price_that_cannot_be_read_is_refused_before_anything_is_sent(icm, reviews, asked, command):
    done = icm(command, reviews, *CLASSIFY, "--price", "cheap")
    assert done.code == 2
    assert "--price: 'cheap' cannot be read" in done.err
    assert asked == []


def test_a_run_says_what_was_planned_what_was_asked_and_what_it_cost(icm, reviews):
    done = icm("run", reviews, *RUN, "--price", "1000/1000", "--json")
    summary = done.json
    tokens = summary["prompt_tokens"]
    assert (summary["planned_requests"], summary["planned_prompt_tokens"]) == (12, tokens)
    assert (
        f"plan: 12 requests, about {tokens} prompt tokens, $0.1080; asked 12 (100%), {tokens} tokens (100%)" in done.err
    )
    assert done.err.startswith(f"plan: 12 requests, about {tokens} prompt tokens, $0.1080"), "before anything is spent"
    assert float(summary["cost_usd"]) == pytest.approx((tokens + 12) / 1000)
    assert summary["planned_cost_usd"] == summary["cost_usd"]
    assert json.loads(Path("run/summary.json").read_text())["cost_usd"] == summary["cost_usd"]


def test_the_plan_of_a_sweep_is_a_bound_and_the_run_says_how_much_of_it_was_asked(icm, reviews):
    done = icm("run", reviews, *CLASSIFY, "--run-dir", "run", "--method", "sweep", "--json")
    assert "plan: at most" in done.err
    assert done.json["requests"] <= done.json["planned_requests"]


def test_what_comes_from_the_cache_costs_nothing_and_counts_as_asked(icm, reviews):
    icm("run", reviews, *RUN, "--price", "1/1")
    again = icm("run", reviews, *RUN, "--price", "1/1", "--json", "--run-dir", "again")
    assert (again.json["requests"], again.json["cost_usd"]) == (0, "0")
    assert "asked 12 (100%)\n" in again.err


def test_a_run_that_is_cut_short_says_what_it_cost(icm, write):
    data = write("many.jsonl", [{"id": str(i), "text": f"text {i}"} for i in range(100)])
    done = icm("run", data, *RUN, "--price", "1/1", "--max-requests", "80", "--json")
    assert done.code == 3
    assert float(done.json["cost_usd"]) > 0
    assert "asked 80 (80%)" in done.err


def test_the_display_shows_dollars_where_a_price_is_known(icm, reviews):
    done = icm("run", reviews, *RUN, "--price", "1000/1000", "--display", "plain")
    assert "retries, $0." in done.err
