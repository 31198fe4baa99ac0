"""Each example runs as it stands, on the offline learner or on the model that it brings."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from icm_api.tasks.toml_task import load_task
from icm_api.types import Example

EXAMPLES = Path(__file__).parents[2] / "examples"
OFFLINE = {"ICM_API_PROVIDER": "synthetic", "PYTHONPATH": str(EXAMPLES)}


def run(folder: Path, *arguments: str) -> str:
    """What a Python program prints, run in an empty folder with settings of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ICM_API_")}
    environ = {**own, **OFFLINE, "ICM_API_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def example(folder: Path, name: str) -> list[str]:
    return run(folder, str(EXAMPLES / name)).splitlines()


def label(folder: Path, *arguments: str) -> list[str]:
    """The labels that `icm-api run` writes."""
    run(folder, "-m", "icm_api.cli", "run", *arguments, "--out", "labels.jsonl")
    return [json.loads(line)["label"] for line in (folder / "labels.jsonl").read_text().splitlines()]


def test_the_quickstart_labels_each_sentence(tmp_path: Path):
    lines = example(tmp_path, "quickstart.py")
    labelled = [line for line in lines if re.match(r"(sport|cooking) +[01]\.\d\d  \w", line)]
    assert len(labelled) == 12


def test_the_notebook_runs_where_an_event_loop_runs_already_and_is_kept_without_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As in a notebook, but without Jupyter: the cells are executed one after another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ICM_API_PROVIDER", "synthetic")
    monkeypatch.setenv("ICM_API_CACHE_DIR", str(tmp_path / "cache"))
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)

    async def execute() -> None:
        names: dict[str, object] = {}
        for cell in code:
            exec("".join(cell["source"]), names)

    asyncio.run(execute())
    printed = capsys.readouterr().out
    assert len(re.findall(r"^(?:sport|cooking) ", printed, re.MULTILINE)) == 12
    assert "shares of the labels: {'sport': " in printed
    assert Path(re.findall(r"labels file: (.*)", printed)[0]).is_file()


def test_the_task_file_labels_pairs_with_exactly_one_winner_of_both_orders(tmp_path: Path):
    labels = label(tmp_path, str(EXAMPLES / "summaries.jsonl"), "--task", str(EXAMPLES / "custom_task.toml"))
    assert [set(pair) for pair in zip(labels[::2], labels[1::2], strict=True)] == [{"first", "second"}] * 4


def test_the_task_class_shows_no_host_what_is_personal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    text = "Mail ann@example.org or ring 0170 555 0143 about order 12."
    shown = load_task("custom_task:Tickets").text(Example("1", {"text": text}))
    assert shown == "Ticket: Mail [address] or ring [number] about order 12.\nTeam:"
    lines = example(tmp_path, "custom_task.py")
    assert len(lines) == 9
    assert not [line for line in lines if "@" in line or "555" in line]


def test_the_task_class_is_found_from_the_command_line(tmp_path: Path):
    rows = ["I was charged twice.", "The parcel is late.", "I forgot my password."]
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    assert set(label(tmp_path, "tickets.jsonl", "--task", "custom_task:Tickets")) <= {"billing", "delivery", "login"}


def test_the_relations_make_a_ranking(tmp_path: Path):
    *ranking, last = example(tmp_path, "custom_relation.py")
    assert [re.findall(r"\d", line) for line in ranking] == [[str(n)] for n in (4, 3, 2, 1, 0)]
    assert last.endswith(", 0 rules are broken")


def test_the_word_counter_tells_sport_from_cooking(tmp_path: Path):
    assert [line.split()[0] for line in example(tmp_path, "custom_provider.py")] == ["sport", "cooking"] * 8


def test_the_word_counter_is_found_from_the_command_line(tmp_path: Path):
    rows = ["The team won the match.", "Boil the rice.", "The team lost the match.", "Boil the onions."]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    words = ("--task", "classify", "--labels", "sport,cooking")
    labels = label(tmp_path, "texts.jsonl", *words, "--provider", "custom_provider:WordCounter")
    assert (labels[0], labels[1]) == (labels[2], labels[3])


def test_the_word_counter_passes_the_checks_of_every_adapter(tmp_path: Path):
    printed = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "custom_provider.py"))
    assert re.search(r"\d\d passed", printed)


def test_the_table_names_every_example_and_nothing_else():
    table = (EXAMPLES / "README.md").read_text()
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert set(re.findall(r"\]\((.*?)\)", table)) == files
    assert set(re.findall(r"examples/([\w.]+)", table)) == files
