import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from icm_api.local.child import common_params

WATCHING = """
import sys, threading
from icm_api.local.child import end_with
end_with(sys.stdin.fileno())
print("up", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def watching():
    with subprocess.Popen([sys.executable, "-c", WATCHING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


def test_the_process_ends_when_its_input_closes(watching):
    watching.stdin.close()
    assert watching.wait(10) == 0


def test_the_process_goes_on_while_its_input_is_open(watching):
    watching.stdin.write(b"anything\n")
    watching.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        watching.wait(0.05)


def test_the_process_can_still_be_ended_by_a_signal(watching):
    watching.send_signal(signal.SIGTERM)
    assert watching.wait(10) == -signal.SIGTERM


class Params:
    """Refuses what llama.cpp does not have, as its bindings do."""

    __slots__ = ("cpuparams", "flash_attn_type", "n_ctx")

    def __init__(self) -> None:
        self.cpuparams = SimpleNamespace(n_threads=-1)


LIBRARY = SimpleNamespace(CommonParams=Params, llama_flash_attn_type=SimpleNamespace(OFF="off, as the library says it"))


def test_parameters_reach_llama_cpp_under_their_own_names():
    params = common_params(LIBRARY, {"n_ctx": 64, "cpuparams.n_threads": 2, "flash_attn_type": "OFF"})
    assert (params.n_ctx, params.cpuparams.n_threads) == (64, 2)
    assert params.flash_attn_type == "off, as the library says it"


def test_a_parameter_that_llama_cpp_lacks_is_an_error():
    with pytest.raises(AttributeError, match="n_slots"):
        common_params(LIBRARY, {"n_slots": 2})
