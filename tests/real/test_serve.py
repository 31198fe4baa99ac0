"""`icm-api local serve` offers the embedded server to other programs until it is told to stop."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform == "win32", reason="signals work differently on Windows"),
]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_answers_and_is_gone_when_stopped(local_model: Path, sent: signal.Signals):
    command = [sys.executable, "-m", "icm_api.cli", "local", "serve", "--context-tokens", "512"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}/health") as reply:
            assert reply.status == 200
        process.send_signal(sent)
        process.wait(20)
    assert process.returncode == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/health", timeout=5)
