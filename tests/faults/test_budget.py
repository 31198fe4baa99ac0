"""Limits as a user meets them: refused early, kept to the cent, and resumable."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

ROWS = [{"id": str(number), "text": f"text {number}"} for number in range(150)]
SYNTHETIC = ("--provider", "synthetic", "--task", "classify", "--labels", "no,yes", "--method", "zero-shot")
PRICED = (*SYNTHETIC, "--price", "1000/1000", "--json")


@pytest.fixture
def data(write):
    return write("rows.jsonl", ROWS)


def cost(done) -> Decimal:
    return Decimal(done.json["cost_usd"])


def test_a_limit_in_dollars_is_kept_and_the_run_ends_with_code_3_and_its_labels_so_far(icm, data):
    whole = cost(icm("run", data, *PRICED, "--run-dir", "whole", "--cache-dir", "other"))
    limit = whole * Decimal("0.8")
    done = icm("run", data, *PRICED, "--run-dir", "cut", "--max-usd", str(limit))
    assert done.code == 3
    assert (done.json["stop_reason"], cost(done) <= limit) == ("max_usd", True)
    assert 0 < done.json["labelled"] < len(ROWS)
    assert "its worst case" in done.err
    rows = [json.loads(line) for line in Path("cut/labels.jsonl").read_text().splitlines()]
    assert sum(row["label"] is not None for row in rows) == done.json["labelled"]


def test_what_a_limit_leaves_unused_is_less_than_the_worst_case_of_one_request(icm, data):
    whole = cost(icm("run", data, *PRICED, "--run-dir", "whole", "--cache-dir", "other"))
    done = icm("run", data, *PRICED, "--run-dir", "cut", "--max-usd", str(whole))
    bound = Decimal(64 + 2 * 16 + len("Text: text 149\nLabel:") + 16) / 1000
    assert whole - bound <= cost(done) <= whole


def test_a_run_that_reached_its_limit_is_finished_with_a_larger_one_and_nothing_is_paid_twice(icm, data):
    whole = icm("run", data, *PRICED, "--run-dir", "whole", "--cache-dir", "other")
    first = icm("run", data, *PRICED, "--run-dir", "parts", "--max-usd", str(cost(whole) / 2))
    then = icm("resume", "parts", "--max-usd", "1000", "--json")
    assert (first.code, then.code) == (3, 0), then.err
    assert then.json["cost_usd"] == whole.json["cost_usd"], "the bill of both parts is that of one run"
    assert Path("parts/labels.jsonl").read_text() == Path("whole/labels.jsonl").read_text()


def test_a_limit_in_dollars_without_a_price_is_refused_before_anything_is_paid_for(icm, data, monkeypatch):
    monkeypatch.setattr("icm_api.run.compose.find_price", lambda *_, **__: None)
    done = icm("run", data, *SYNTHETIC, "--max-usd", "5", "--run-dir", "run")
    assert done.code == 2
    assert "--max-usd: no price is known for this model at this host" in done.err
    assert "--price" in done.err
    assert not Path("run/labels.jsonl").exists()


def test_a_free_server_passes_no_limit_in_dollars(icm, data):
    done = icm("run", data, *SYNTHETIC, "--max-usd", "0", "--json")
    assert (done.code, done.json["cost_usd"]) == (0, "0")


@pytest.mark.parametrize("wrong", ["-1", "nan", "inf", "five", "1/2"])
def test_a_limit_that_is_no_amount_is_refused(icm, data, wrong):
    done = icm("run", data, *SYNTHETIC, "--max-usd", wrong)
    assert done.code == 2
    assert "--max-usd" in done.err


def test_the_limit_may_stand_in_the_environment_and_in_a_file(icm, data, write, monkeypatch):
    write("settings.toml", 'max_usd = "0.0001"\n')
    assert icm("run", data, *PRICED, "--config", "settings.toml").code == 3
    monkeypatch.setenv("ICM_API_MAX_USD", "1000000")
    assert icm("run", data, *PRICED).code == 0
