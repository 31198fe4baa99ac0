"""What adapters for self-hosted servers share: JSON to a server's own routes, and the names of what it has loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import httpx2

from icm_api.errors import RequestError
from icm_api.providers.http import BoundedClient, Host, checked_api_key, checked_base_url
from icm_api.types import Json


class NativeServer:
    """A server's own routes as JSON in, JSON out. `base_url`: its root; a `/v1` at its end is taken off."""

    provider = ""
    hint = ""
    """How to start such a server."""

    def __init__(self, base_url: str, api_key: str | None, model: str | None, timeout_s: float) -> None:
        self._base_url = checked_base_url(base_url).removesuffix("/v1")
        self._api_key = checked_api_key(api_key, self._base_url)
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else None
        self._client = BoundedClient(base_url=self._base_url, timeout_s=timeout_s, headers=headers)
        self.name_model(model or "")

    def name_model(self, model: str) -> None:
        """Set the model that messages name."""
        self.host = Host(
            provider=self.provider,
            model=model,
            base_url=self._base_url,
            hint=self.hint,
            models_path="/v1/models",
            api_key=self._api_key,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def get(self, path: str) -> Mapping[str, Json]:
        return self.host.mapping(await self._exchange("GET", path, None))

    async def post(self, path: str, body: Json) -> Json:
        return self.host.document(await self.response(path, body))

    async def response(self, path: str, body: Json) -> httpx2.Response:
        """For routes that say something in their headers."""
        return await self._exchange("POST", path, body)

    async def _exchange(self, method: str, path: str, body: Json) -> httpx2.Response:
        try:
            return await self._client.request(method, path, json=body)
        except httpx2.RequestError as error:
            raise self.host.unreachable(error) from None


def token_ids(value: Json, text: str, host: Host) -> tuple[int, ...]:
    """A tokeniser's reply for `text`. Raises CapabilityError unless it is a list of ids."""
    ids = [k for k in value if isinstance(k, int) and not isinstance(k, bool)] if isinstance(value, list) else []
    if not isinstance(value, list) or len(ids) != len(value) or (text and not ids):
        raise host.incapable(f"the server gave no token ids for {text[:40]!r}")
    return tuple(ids)


def public_name(path: Json) -> str | None:
    """A model's name; of a path on the server's disk only the last part: a home directory has no place in a cache key
    or a report."""
    if not isinstance(path, str) or not path:
        return None
    on_disk = re.match(r"[/~.\\]|[A-Za-z]:[\\/]", path)
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] if on_disk else path


def agreed_name(served: Sequence[str], asked: str | None, host: Host) -> str:
    """The served name that is meant: the one asked for (in full, or the last part of its path), or the first. Raises
    RequestError when the server has loaded something else."""
    for name in served:
        if asked in (None, name, public_name(name)):
            return name
    names = " and ".join(repr(public_name(name)) for name in served) or "no model"
    raise RequestError(
        f"the server at {host.base_url} has loaded {names}, not {asked!r}: leave the model out or start another",
        provider=host.provider,
        model=str(asked),
    )
