"""Ctrl-C and SIGTERM end a run with what it found; nothing that was paid for is lost."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals work differently on Windows")


@pytest.mark.parametrize(
    ("method", "latency_s", "first_line", "sent"),
    [
        ("anneal", "0.02", "8/200 labelled", signal.SIGINT),
        ("anneal", "0.02", "8/200 labelled", signal.SIGTERM),
        ("sweep", "0.3", "warm-up", signal.SIGINT),
    ],
)
def test_an_interrupted_run_saves_its_labels_says_where_and_keeps_its_replies(
    tmp_path: Path, method, latency_s, first_line, sent
):
    rows = [{"id": str(i), "text": f"text {i}"} for i in range(200)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "icm_api.cli", "run", "d.jsonl", "--task", "classify", "--labels", "no,yes"]
    command += ["--provider", "synthetic", "--provider-option", f"latency_s={latency_s}", "--run-dir", "run"]
    command += ["--method", method]
    clean = {name: text for name, text in os.environ.items() if not name.startswith("ICM_API_")}
    environ = {**clean, "ICM_API_CACHE_DIR": str(tmp_path / "cache")}
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert first_line in process.stderr.readline()
        process.send_signal(sent)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "the labels found so far are in run/labels.jsonl" in said
    assert "Traceback" not in said
    assert len((tmp_path / "run/labels.jsonl").read_text().splitlines()) == 200
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["stop_reason"] == "interrupted"

    limited = [*command, "--max-requests", str(summary["requests"]), "--json"]
    again = subprocess.run(limited, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert json.loads(again.stdout)["cache_hits"] >= summary["requests"] - 1, "at most the one in the air is lost"
