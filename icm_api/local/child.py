"""The server process: `python -m icm_api.local.child`, started by `LocalServer` and by nothing else.

Protocol: one JSON line of llama.cpp parameters comes on standard input, which then stays open; one JSON line
`{"base_url", "cpu"}` goes to standard output when the server listens. Logs go to standard error. When standard input
closes, for whatever reason (even a parent killed with SIGKILL), the process ends at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

ENUMERATIONS = {"flash_attn_type": "llama_flash_attn_type", "cache_type_k": "ggml_type", "cache_type_v": "ggml_type"}


def main() -> None:
    # A terminal sends Ctrl-C to the whole process group; the parent decides when the server ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parameters = json.loads(sys.stdin.readline())
    watch = end_with(sys.stdin.fileno())
    answer = only_answer()
    ready, server = open_server(parameters)
    answer.write(json.dumps(ready) + "\n")
    answer.flush()
    watch.join()
    del server


def end_with(pipe: int) -> threading.Thread:
    """End this process when the pipe from its parent (a file descriptor) closes.

    `os._exit` because an orderly end would wait for requests in flight. While a model loads, the library holds
    Python's global lock, so an orphan then ends when it has loaded.
    """

    def watch() -> None:
        while os.read(pipe, 4096):
            pass
        os._exit(0)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def only_answer() -> IO[str]:
    """Standard output for the answer alone: whatever the C++ code prints there goes to standard error instead."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answer


def open_server(parameters: Mapping[str, Any]) -> tuple[dict[str, str], object]:
    """What the parent must know, and the server, which lives as long as the object does."""
    import xllamacpp

    try:
        server = xllamacpp.Server(common_params(xllamacpp, parameters))
    except RuntimeError as error:
        sys.exit(str(error))
    return {"base_url": server.listening_address, "cpu": xllamacpp.get_system_info().strip()}, server


def common_params(library: Any, parameters: Mapping[str, Any]) -> Any:
    """llama.cpp's parameter block. Dotted names reach into its parts."""
    params = library.CommonParams()
    for name, value in parameters.items():
        *parts, field = name.split(".")
        target = params
        for part in parts:
            target = getattr(target, part)
        enumeration = ENUMERATIONS.get(name)
        setattr(target, field, getattr(getattr(library, enumeration), value) if enumeration else value)
    return params


if __name__ == "__main__":
    main()
