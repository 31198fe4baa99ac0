"""`python -m tests.recorded --provider NAME` (`make record`): records what a host answers; see cassettes/README.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from icm_api.client.prices import dollars
from icm_api.config import ProviderConfig, load_config
from icm_api.errors import BudgetError, IcmError, ProviderError
from icm_api.local.models import DEFAULT_MODEL, default_cache_dir, fetch_model
from icm_api.local.server import ServerSettings, start_server
from tests.recorded.recording import CASSETTES, HOSTS, record

ROOT = CASSETTES.parent
EMBEDDED = "llama-cpp"
"""The provider whose server is brought along, unless an address is given."""
EMBEDDED_TESTS = ("llama_cpp", "openai_compatible", "anthropic")
"""Modules whose cassettes are made from the embedded server too."""
MODEL_FILE = "SmolLM2-135M-Instruct-Q4_1.gguf"
CONTEXT_TOKENS = 512
PORT = 8124
"""As in the recordings: these tests ask there."""
FEW = 50
"""Candidates of a recorded reply: cassettes stay small."""


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """The exit code."""
    try:
        config = load_config(ProviderConfig, vars(_parser().parse_args(arguments)), environ)
        if config.provider == EMBEDDED and config.base_url is None:
            _record_embedded(config, environ)
        else:
            _record_host(config, environ)
    except BudgetError as error:
        print(
            f"nothing recorded: ${error.spent} of the ${error.allowed} allowed were spent (or held) when the next "
            "request might have passed them; with a larger limit it begins anew",
            file=sys.stderr,
        )
        return error.exit_code
    except IcmError as error:
        print(f"nothing recorded: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.recorded",
        description="Record what a host answers to five to ten short questions, into cassettes/hosts/PROVIDER.yaml. "
        "Every other setting of a provider is taken from the environment (ICM_API_ROUTE, ICM_API_BASE_URL, ...), as "
        "icm-api does; the key from the variable that `icm-api providers` names.",
    )
    parser.add_argument("--provider", required=True, help=f"{EMBEDDED} brings its own server")
    parser.add_argument("--model", help="a public one: its name is written down")
    parser.add_argument("--max-usd", default="0.05", help="never spend more (default: %(default)s)")
    parser.add_argument("--price", help="input/output in USD per million tokens, where no list price is known")
    return parser


def _record_host(config: ProviderConfig, environ: Mapping[str, str]) -> None:
    file = HOSTS / f"{config.provider}.yaml"
    spent = asyncio.run(record(config, environ, file, say=print))
    print(f"{file}: {spent.requests} requests, {dollars(spent.cost_usd_at_most)} at most")


def _record_embedded(config: ProviderConfig, environ: Mapping[str, str]) -> None:
    with _embedded_server(environ) as url:
        _record_host(config.model_copy(update={"base_url": url, "top_k": FEW}), environ)
        _record_tests()


@contextmanager
def _embedded_server(environ: Mapping[str, str]) -> Iterator[str]:
    """Its address. It runs in a folder that holds nothing else, as its replies repeat the path of the model."""
    model = fetch_model(DEFAULT_MODEL, cache_dir=default_cache_dir(environ), progress=print)
    with TemporaryDirectory() as folder, ExitStack() as running:
        (Path(folder) / MODEL_FILE).symlink_to(model)
        with chdir(folder):
            settings = ServerSettings(Path(MODEL_FILE), context_tokens=CONTEXT_TOKENS, port=PORT)
            server = running.enter_context(start_server(settings))
        yield server.base_url


def _record_tests() -> None:
    """Their cassettes anew, kept only when every test passes on them with the network shut."""
    with TemporaryDirectory() as folder:
        _run_tests(folder, "--record-mode=rewrite")
        _run_tests(folder)
        for recorded in sorted(Path(folder).iterdir()):
            shutil.rmtree(CASSETTES / recorded.name, ignore_errors=True)
            shutil.copytree(recorded, CASSETTES / recorded.name)
            print(f"{CASSETTES.name}/{recorded.name}: {len(list(recorded.iterdir()))} files")


def _run_tests(cassettes: str, *options: str) -> None:
    modules = [f"tests/recorded/test_{name}.py" for name in EMBEDDED_TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *modules]
    if subprocess.run(command, cwd=ROOT, env={**os.environ, "CASSETTES": cassettes}, check=False).returncode:
        raise ProviderError("the tests do not pass on what the embedded server answers", provider=EMBEDDED)


if __name__ == "__main__":
    sys.exit(main())
