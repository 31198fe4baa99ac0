"""What a host answers to a few questions, kept in one YAML file and played back with the network shut.

The questions are those of `icm-api probe`, five to ten short ones; the checks made of the answers are kept beside them,
so that playing shows both: the adapter asks the same, and reads the same out of the replies.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeGuard
from urllib.parse import unquote

import httpx2
import vcr  # type: ignore[import-untyped]
import yaml
from vcr.cassette import Cassette  # type: ignore[import-untyped]
from vcr.record_mode import RecordMode  # type: ignore[import-untyped]

from icm_api.client.meter import Snapshot
from icm_api.client.prices import plain_usd
from icm_api.client.retry import Sleep
from icm_api.config import ProviderConfig
from icm_api.errors import ConfigError, DataError, ProviderError
from icm_api.providers.registry import ENTRIES
from icm_api.run.compose import Say, open_client
from icm_api.run.probe import probe
from icm_api.types import Json, Label

CASSETTES = Path(__file__).parents[2] / "cassettes"
HOSTS = CASSETTES / "hosts"
"""One file a provider."""
HOSTED = [entry.name for entry in ENTRIES if entry.open is not None and "base_url" in entry.takes]
"""Providers that are asked by HTTP."""
LABELS = (Label("True", " True"), Label("False", " False"))
KEPT_HEADERS = {"content-type"}
"""Everything else (keys, cookies, organisations and request ids among it) never reaches a cassette."""
KEPT_SETTINGS = {
    *("provider", "model", "base_url", "api_key_env", "route"),
    *("top_k", "context_tokens", "echo", "extra_body", "provider_options"),
}
"""What decides what is asked; the key's variable is a name."""
REMOVED = "removed"
ELSEWHERE = "https://recorded.invalid"
"""Stands for an address that is not the provider's own, such as one that names an account."""
ORDINARY = {
    *("account", "accounts", "ai", "api", "chat", "client", "compat", "deployments", "endpoints", "gateway"),
    *("inference", "llm", "models", "openai", "projects", "proxy", "serving-endpoints"),
}
"""Parts of an address's path that say nothing of who asked, and are common words in replies."""
PASSING = {408, 409, 429}
"""With every 5xx: failures after which the client asks again. They are not kept."""
_CALLER = re.compile(
    r"(request|response|trace)_?id|(organi[sz]ation|org|account|project|workspace|user|customer)(_?(id|name))?|cookie|email",
    re.IGNORECASE,
)
"""Names of members that say who asked, or which request it was."""
_ID = re.compile(r"\b(?:org|proj|req|user|acct|sk)[-_][\w-]{6,}")
"""Such a thing within a text."""
SECRET = re.compile(r"authorization|bearer|api[-_]key(?!_env: )|sk-[\w-]{4}|/home/|/root/|/tmp/", re.IGNORECASE)
"""What no cassette may hold."""


# --- what is kept -----------------------------------------------------------------------------------------


def without_ids(document: Json) -> Json:
    """The document without what tells who asked, or which request it was."""
    if isinstance(document, list):
        return [without_ids(item) for item in document]
    if isinstance(document, dict):
        return {name: REMOVED if _tells(document, name) else without_ids(value) for name, value in document.items()}
    return _ID.sub(REMOVED, document) if isinstance(document, str) else document


def _tells(document: Mapping[str, Json], name: str) -> bool:
    """The id of a model is what was asked for, and a number is a token's."""
    if not isinstance(document[name], str):
        return False
    return bool(_CALLER.fullmatch(name)) or (name == "id" and document.get("object") != "model")


def _only_kept(headers: Any) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name.lower() in KEPT_HEADERS}


def _clean_request(request: Any) -> Any:
    request.headers = _only_kept(request.headers)
    return request


def _clean_response(response: dict[str, Any]) -> dict[str, Any]:
    body = {**response["body"], "string": _clean_body(response["body"]["string"])}
    return {**response, "headers": _only_kept(response["headers"]), "body": body}


def _clean_body(body: bytes) -> bytes:
    """Byte for byte as it came where nothing in it is to be removed, or where it is no JSON."""
    try:
        document = json.loads(body)
    except ValueError:
        return _ID.sub(REMOVED, body.decode("utf-8", "replace")).encode()
    cleaned = without_ids(document)
    return body if cleaned == document else json.dumps(cleaned, ensure_ascii=False, separators=(",", ":")).encode()


def _unless_passing(response: dict[str, Any]) -> dict[str, Any] | None:
    status = response["status"]["code"]
    return None if status in PASSING or status >= 500 else response


VCR_CONFIG: Mapping[str, Any] = {
    "match_on": ["method", "scheme", "host", "port", "path", "query", "body"],
    "decode_compressed_response": True,
    "before_record_request": _clean_request,
    "before_record_response": _clean_response,
}


# --- recording and playing --------------------------------------------------------------------------------


async def record(
    config: ProviderConfig,
    environ: Mapping[str, str],
    file: Path,
    say: Say | None = None,
    *,
    sleep: Sleep = asyncio.sleep,
) -> Snapshot:
    """Ask the host and write `file`; what it took. `sleep` waits where the host asks for it.

    The file is written whole, and only when playing it gives what the host was heard to say: with any error, one that
    was there before stays. Raises ConfigError for a provider that is not asked by HTTP, without a limit in dollars or a
    price, and where the key would be written down; BudgetError before the limit is passed; others as the client does.
    """
    if config.provider not in HOSTED:
        raise ConfigError(f"provider {config.provider!r} cannot be recorded; those that can: {', '.join(HOSTED)}")
    if config.max_usd is None:
        raise ConfigError("--max-usd: nothing is recorded without a limit in dollars")
    with TemporaryDirectory() as folder:
        draft = Path(folder) / file.name
        with _cassette(draft, RecordMode.ALL):
            checks, spent = await _heard(config, environ, Path(folder), sleep, say)
        document = {**yaml.safe_load(draft.read_text()), "metadata": _described(config, checks, spent)}
        text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
        if _is_own(config.base_url):
            text = _elsewhere(text, httpx2.URL(config.base_url))
        _refuse_keys(text, config, environ)
        draft.write_text(text)
        await play(draft)
        _put(text, file)
    return spent


async def play(file: Path) -> None:
    """Ask the same of the recording. Raises DataError unless the checks come out as recorded and every reply was asked
    for; a question that is not in the file is a failure like any other of the host."""
    recorded = _description(file)
    with _cassette(file, RecordMode.NONE) as cassette, TemporaryDirectory() as folder:
        config = ProviderConfig(**recorded["settings"])
        keys = dict.fromkeys(_key_variables(config), "no-key")
        try:
            checks, _ = await _heard(config, keys, Path(folder), _at_once)
        except ProviderError as error:
            raise DataError(f"{file}: what is asked now is not what was recorded: {error}") from error
        if not cassette.all_played:
            raise DataError(f"{file}: only {cassette.play_count} of {len(cassette)} recorded replies were asked for")
    if checks != recorded["checks"]:
        raise DataError(f"{file}: the replies are read as {checks}, and were as {recorded['checks']}")


def _cassette(file: Path, mode: RecordMode) -> AbstractContextManager[Cassette]:
    after = [VCR_CONFIG["before_record_response"], _unless_passing]
    recorder = vcr.VCR(**{**VCR_CONFIG, "before_record_response": after}, record_on_exception=False)
    cassette: AbstractContextManager[Cassette] = recorder.use_cassette(str(file), record_mode=mode)
    return cassette


async def _heard(
    config: ProviderConfig, environ: Mapping[str, str], folder: Path, sleep: Sleep, say: Say | None = None
) -> tuple[dict[str, str], Snapshot]:
    """What the probe makes of the host, through the client that runs use, and what it took. No cache: a host's own
    answers are wanted, and another probe's verdict on it (kept in `folder`) is none."""
    own = config.model_copy(update={"cache": False, "cache_dir": folder})
    async with open_client(own, environ, say, sleep=sleep) as client:
        told = await probe(client.provider, LABELS, price=None)
        checks = {check.name: f"{check.status}: {check.detail}" for check in told.checks if check.name != "price"}
        return checks, client.snapshot()


async def _at_once(_seconds: float) -> None:
    """No wait."""


def _described(config: ProviderConfig, checks: Mapping[str, str], spent: Snapshot) -> dict[str, Any]:
    return {
        "recorded": f"{datetime.now(UTC):%Y-%m-%d}",
        "icm_api": version("icm-api"),
        "cost_usd_at_most": plain_usd(spent.cost_usd_at_most),
        "requests": spent.requests,
        "settings": config.model_dump(mode="json", include=KEPT_SETTINGS, exclude_unset=True, exclude_none=True),
        "checks": without_ids(dict(checks)),
    }


def _description(file: Path) -> dict[str, Any]:
    description: dict[str, Any] | None = yaml.safe_load(file.read_text()).get("metadata")
    if description is None:
        raise DataError(f"{file}: says nothing of how it was recorded (metadata)")
    return description


def _is_own(base_url: str | None) -> TypeGuard[str]:
    """Whether the address is the user's own: a listed provider's is public, however it is written."""
    listed = (entry.base_url for entry in ENTRIES if entry.base_url)
    return base_url is not None and _plain(base_url) not in {_plain(address) for address in listed}


def _plain(base_url: str) -> str:
    return str(httpx2.URL(base_url)).rstrip("/")


def _elsewhere(text: str, address: httpx2.URL) -> str:
    """The text with `ELSEWHERE` for all of the user's own address but its version, which adapters leave out or add.

    Raises ConfigError where the text holds the host or a telling part of the path elsewhere, or in other writing."""
    cleaned = re.sub(_prefix(address), ELSEWHERE, text, flags=re.IGNORECASE)
    told = re.search(rf"(?<![\w-]){_either(*_names(address))}(?![\w-])", cleaned, re.IGNORECASE)
    if told:
        raise ConfigError(f"the recording still tells {told[0]!r}, a part of base_url: nothing was written")
    return cleaned


def _prefix(address: httpx2.URL) -> str:
    """A pattern for the address without its version, as a user or an HTTP client may write it."""
    path, decoded = (_unversioned(written) for written in (address.raw_path.decode(), address.path))
    hosts, paths = _either(address.raw_host.decode(), address.host), _either(path, decoded)
    default = {"https": 443, "http": 80}[address.scheme]
    port = f"(?::{default})?" if address.port in (None, default) else f":{address.port}"
    return rf"{address.scheme}://\[?{hosts}\]?{port}{paths}(?![\w-]|[:.]\w)"


def _unversioned(path: str) -> str:
    return re.sub(r"(/v\d\w*)?/*$", "", path)


def _either(*written: str) -> str:
    return f"(?:{'|'.join(map(re.escape, written))})"


def _names(address: httpx2.URL) -> list[str]:
    """What of the address must be nowhere: the host (one without a dot is a common word, so only where an address names
    it), and those parts of the path that are no common word, no version and no small number."""
    hosts = {name if re.search("[.:]", name) else f"/{name}" for name in (address.host, address.raw_host.decode())}
    parts = {name for part in address.raw_path.decode().split("/") for name in (part, unquote(part))}
    telling = [part for part in parts if part.lower() not in ORDINARY and not re.fullmatch(r"v\d\w*|.{0,3}", part)]
    return sorted({*hosts, *telling})


def _refuse_keys(text: str, config: ProviderConfig, environ: Mapping[str, str]) -> None:
    """A key is in no header that is kept; a host may still repeat it in a reply."""
    keys = {environ[name].strip() for name in _key_variables(config) if environ.get(name, "").strip()}
    if any(key in text for key in keys):
        raise ConfigError("the host repeats the key in its replies, so they cannot be kept: nothing was written")


def _key_variables(config: ProviderConfig) -> list[str]:
    """Names of the variables that may hold the key of this host."""
    own = [entry.key_env for entry in ENTRIES if entry.name == config.provider]
    return [name for name in (config.api_key_env, *own) if name]


def _put(text: str, file: Path) -> None:
    """All of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    beside.write_text(text)
    os.replace(beside, file)
