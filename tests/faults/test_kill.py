"""SIGKILL at random moments: `python -m benchmarks.kill_loop --kills 100` does the same for longer."""

import random
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")


@pytest.mark.parametrize("method", ["sweep", "anneal"])
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been_and_pays_for_no_reply_twice(method):
    command = [sys.executable, "-m", "benchmarks.kill_loop", "--kills", "10", "--method", method]
    command += ["--seed", str(random.randrange(2**31))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
