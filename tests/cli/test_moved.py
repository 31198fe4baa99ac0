"""Data and relations that were moved after a run: every command over the run is told alike where they are."""

from pathlib import Path

import pytest

SETTINGS = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic", "--gold-column", "gold")
COMMANDS = {
    "audit": ("audit", "run", "--csv", "sheet.csv"),
    "eval": ("eval", "run", "--test", "new.jsonl", "--display", "none"),
    "label": ("label", "new.jsonl", "--from", "run"),
    "export": ("export", "run", "--format", "jsonl", "--out", "out.jsonl"),
    "tune": ("tune", "run", "--provider", "openai", "--base-model", "base", "--dry-run"),
    "report": ("report", "run"),
    "compare": ("compare", "run", "plain"),
}
RULE = {"kind": "equivalent", "ids": ["r0", "r2"]}


@pytest.fixture
def moved(icm, write):
    """Two runs over the same data, of which `run` has relations; then data and relations are moved."""
    rows = [{"id": f"r{i}", "text": f"text {i}", "gold": ["negative", "positive"][i % 2]} for i in range(24)]
    new = [{"id": f"n{i}", "text": f"new {i}", "gold": ["negative", "positive"][i % 2]} for i in range(8)]
    write("data.jsonl", rows)
    write("new.jsonl", new)
    write("rules.jsonl", [RULE])
    assert icm("run", "data.jsonl", *SETTINGS, "--run-dir", "run", "--relations", "rules.jsonl").code == 0
    assert icm("run", "data.jsonl", *SETTINGS, "--run-dir", "plain", "--method", "zero-shot").code == 0
    Path("data.jsonl").rename("moved.jsonl")
    Path("rules.jsonl").rename("moved-rules.jsonl")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("spelling", ["--run-data --run-relations", "--data --relations"])
def test_every_command_over_a_run_is_told_alike_where_its_files_are(icm, moved, command, spelling):
    lost = icm(*COMMANDS[command])
    assert lost.code == 2
    assert "say where they are now with --run-data (relations: --run-relations)" in lost.err
    data, relations = spelling.split()
    found = icm(*COMMANDS[command], data, "moved.jsonl", relations, "moved-rules.jsonl")
    assert found.code == 0, found.err


def test_a_run_beside_another_needs_no_relations_of_its_own(icm, moved):
    places = ("--run-data", "moved.jsonl", "--run-relations", "moved-rules.jsonl")
    assert icm("report", "run", "--beside", "plain", *places).code == 0
    assert icm("report", "plain", "--beside", "run", *places).code == 0


def test_relations_that_no_run_has_are_refused(icm, moved):
    places = ("--run-data", "moved.jsonl", "--run-relations", "moved-rules.jsonl")
    done = icm("compare", "plain", "plain", *places)
    assert (done.code, "no relations file was given to plain" in done.err) == (2, True)
