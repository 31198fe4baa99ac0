"""Each example runs as it stands, on the offline learner."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(folder: Path, *arguments: str) -> str:
    environ = {**os.environ, "ICM_API_PROVIDER": "synthetic", "ICM_API_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_a_script_runs(tmp_path: Path, script: Path):
    assert run(tmp_path, str(script)).strip()


def test_the_custom_task_labels_a_file(tmp_path: Path):
    pairs = [(i, one, 1 - one) for i in range(6) for one in (0, 1)]
    rows = [
        {"id": f"{i}-{a}{b}", "document": f"text {i}", "summary_1": f"{i} by {a}", "summary_2": f"{i} by {b}"}
        for i, a, b in pairs
    ]
    (tmp_path / "summaries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = str(EXAMPLES / "custom_task.toml")
    run(tmp_path, "-m", "icm_api.cli", "run", "summaries.jsonl", "--task", task, "--out", "labels.jsonl")
    labels = [json.loads(line)["label"] for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert sorted(labels) == ["first"] * 6 + ["second"] * 6, "of each pair of orders, exactly one holds"
