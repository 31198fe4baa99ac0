"""Fine-tuning at Together AI, through the `together` SDK.

Files go where the host says: it answers an upload with the address of a store, and the file is put there. The price is
told for an uploaded file only, once the host has looked at it; neither costs anything.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import httpx2

from icm_api.errors import RequestError, TransientError
from icm_api.providers.http import NO_KEY, BoundedClient, Host, printable
from icm_api.providers.tuning import (
    EXCHANGE_S,
    UPLOAD_S,
    Estimate,
    Event,
    FileIds,
    Method,
    Order,
    Phase,
    Standing,
    id_of,
    refusal,
)

if TYPE_CHECKING:
    from together import AsyncTogether

T = TypeVar("T")

_VERSION_PATH = "/v1"
"""Every path of the SDK begins with it."""
_UNREADY = frozenset({"PENDING", "QUEUED", "RUNNING"})
_UNUSABLE = frozenset({"FAILED", "INVALID_FORMAT"})
_PHASES: dict[str, Phase] = {
    "completed": "done",
    "error": "failed",
    "user_error": "failed",
    "cancelled": "cancelled",
}
_AMISS = frozenset({"error", "legacy_ierror"})
"""Levels of events that tell what went wrong."""


def problem_with(path: Path, method: Method) -> str | None:
    """What the SDK's own check has against a training file; None: nothing."""
    from together.lib import check_file
    from together.lib.constants import JSONL_REQUIRED_COLUMNS_MAP, DatasetFormat

    report = check_file(path, purpose="fine-tune")
    if not report["is_check_passed"]:
        return str(report.get("message"))
    shape = DatasetFormat.PREFERENCE_OPENAI if method == "dpo" else DatasetFormat.CONVERSATION
    with path.open(encoding="utf-8") as file:
        columns = set(json.loads(file.readline()))
    wanted = set(JSONL_REQUIRED_COLUMNS_MAP[shape])
    return None if columns == wanted else f"its columns are {sorted(columns)}, and {method} needs {sorted(wanted)}"


class TogetherTuner:
    """A `Tuner`. The base address may end in `/v1` or before it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._client = _sdk_client(host, EXCHANGE_S)
        self._limits: Any = None

    @property
    def host(self) -> Host:
        return self._host

    async def check(self, order: Order) -> None:
        limits = await self._model_limits(order)
        if order.epochs > limits.max_num_epochs:
            raise self._host.error(
                RequestError, f"at most {limits.max_num_epochs} epochs are allowed, not {order.epochs}"
            )

    async def upload(self, path: Path) -> str:
        client = _sdk_client(self._host, UPLOAD_S)
        try:
            # checked before; a file that the host has already comes back with the id that it has
            file = await self._asked(client.files.upload(path, purpose="fine-tune", check=False))
        finally:
            await client.close()
        return id_of(file, self._host)

    async def is_ready(self, file_id: str) -> bool:
        file = await self._asked(self._client.files.retrieve(file_id))
        if file.processing_status in _UNUSABLE:
            said = file.validation_report.error if file.validation_report else None
            why = printable(said) if said else "it does not say why"
            raise self._host.error(RequestError, f"the host finds file {file_id} unusable: {why}")
        return file.processing_status not in _UNREADY

    async def estimate(self, order: Order, files: FileIds) -> Estimate:
        found: Any = await self._asked(
            self._client.fine_tuning.estimate_price(
                model=order.base_model,
                training_file=files.training,
                n_epochs=order.epochs,
                n_evals=await self._evaluations(order, files),
                training_method={"method": "dpo"} if order.method == "dpo" else _SUPERVISED,
                **_with_validation(files),
            )
        )
        if not found.estimation_available or found.estimated_total_price is None:
            return Estimate(None)
        usd = Decimal(str(found.estimated_total_price))
        if found.allowed_to_proceed is False:
            limit = "" if found.user_limit is None else f" (its limit is ${found.user_limit:g})"
            raise self._host.error(RequestError, f"the account must not spend the ${usd} that this would cost{limit}")
        tokens = (found.estimated_train_token_count or 0) + (found.estimated_eval_token_count or 0)
        return Estimate(usd, int(tokens) or None)

    async def launch(self, order: Order, files: FileIds) -> str:
        job = await self._asked(
            self._client.fine_tuning.create(
                model=order.base_model,
                training_file=files.training,
                validation_file=files.validation,
                n_epochs=order.epochs,
                n_evals=await self._evaluations(order, files),
                suffix=order.suffix,
                training_method=order.method,
                train_on_inputs="auto" if order.method == "sft" else None,
                model_limits=await self._model_limits(order),
            )
        )
        return id_of(job, self._host)

    async def find(self, order: Order, files: FileIds, since_s: float) -> str | None:
        """By file, model and suffix: the host keeps no mark of ours."""
        listed = await self._asked(self._client.fine_tuning.list())
        for job in listed.data:
            ours = job.training_file == files.training and job.suffix in (order.suffix, None)
            if ours and job.model in (order.base_model, None) and job.created_at.timestamp() >= since_s:
                return id_of(job, self._host)
        return None

    async def standing(self, job_id: str) -> Standing:
        job = await self._asked(self._client.fine_tuning.retrieve(job_id))
        phase = _PHASES.get(job.status, "going")
        return Standing(
            phase,
            printable(job.status),
            tuned_model=printable(job.x_model_output_name) if job.x_model_output_name else None,
            failure=await self._failure(job_id) if phase == "failed" else None,
            left_s=job.progress.seconds_remaining if job.progress and job.progress.estimate_available else None,
        )

    async def events(self, job_id: str) -> tuple[Event, ...]:
        return tuple(
            Event(f"{e.created_at} {e.type} {e.message}", printable(e.message)) for e in await self._log(job_id)
        )

    async def aclose(self) -> None:
        await self._client.close()

    async def _failure(self, job_id: str) -> str | None:
        """The last thing that went wrong, which stands in the log only."""
        amiss = [e.message for e in await self._log(job_id) if e.level in _AMISS or e.type == "job_error"]
        return printable(amiss[-1]) if amiss else None

    async def _log(self, job_id: str) -> list[Any]:
        return list((await self._asked(self._client.fine_tuning.list_events(job_id))).data)

    async def _model_limits(self, order: Order) -> Any:
        if self._limits is None:
            limits: Any = await self._asked(self._client.fine_tuning.model_limits(model_name=order.base_model))
            if None in (limits.max_num_epochs, limits.max_num_evals, limits.lora_training):
                raise self._host.error(TransientError, f"the limits of {order.base_model} came without their numbers")
            self._limits = limits
        return self._limits

    async def _evaluations(self, order: Order, files: FileIds) -> int:
        """One an epoch; without any, the validation file would not be looked at."""
        return min(order.epochs, (await self._model_limits(order)).max_num_evals) if files.validation else 0

    async def _asked(self, answer: Awaitable[T]) -> T:
        with _told_as_errors(self._host):
            found = await answer
        if isinstance(found, str):  # what the SDK makes of a body that is not JSON
            raise self._host.error(TransientError, f"the reply of {self._host.base_url} is not complete JSON")
        return found


_SUPERVISED: Any = {"method": "sft", "train_on_inputs": "auto"}


def _with_validation(files: FileIds) -> dict[str, Any]:
    return {"validation_file": files.validation} if files.validation else {}


@contextmanager
def _told_as_errors(host: Host) -> Iterator[None]:
    """What the SDK raises, as the errors that it means."""
    import together

    try:
        yield
    except together.APIStatusError as error:
        raise refusal(error.response, host) from None
    except together.APIConnectionError as error:
        raise host.unreachable(error.__cause__ or error) from None
    except (httpx2.RequestError, httpx.RequestError) as error:  # files are put into the store beside the SDK's own loop
        raise host.unreachable(error) from None
    except json.JSONDecodeError:
        raise host.error(TransientError, f"the reply of {host.base_url} is not complete JSON") from None


class _Transport(httpx.AsyncBaseTransport):
    """Sends what the SDK asks through a `BoundedClient`. The headers are ours but for the type of the body.

    The key goes to the host alone, not to the store of its files. Other addresses are asked only after the host has
    named them: left to itself, the SDK puts the file to an address of its own making when the host names none.
    """

    def __init__(self, host: Host, timeout_s: float) -> None:
        self._host = host
        self._home = _origin(httpx.URL(host.base_url))
        self._named: set[tuple[str, str, int | None]] = set()
        self._client = BoundedClient(base_url=host.base_url, timeout_s=timeout_s)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._client.request(
            request.method, str(request.url), content=await request.aread(), headers=self._headers(request)
        )
        if "location" in answer.headers:
            self._named.add(_origin(request.url.join(answer.headers["location"])))
        return httpx.Response(answer.status_code, headers=answer.headers.multi_items(), content=answer.content)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _headers(self, request: httpx.Request) -> dict[str, str]:
        origin = _origin(request.url)
        headers = {"Content-Type": request.headers["content-type"]} if "content-type" in request.headers else {}
        if origin == self._home:
            return headers | ({"Authorization": f"Bearer {self._host.api_key}"} if self._host.api_key else {})
        if origin not in self._named:
            raise self._host.error(TransientError, "the host did not say where the file is to be put")
        return headers


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _sdk_client(host: Host, timeout_s: float) -> AsyncTogether:
    """The SDK without its retries and without what it would pick up from the environment."""
    from together import AsyncTogether  # takes long to import, so only here

    return AsyncTogether(
        api_key=NO_KEY,
        base_url=host.base_url.removesuffix(_VERSION_PATH),
        max_retries=0,
        timeout=timeout_s,
        http_client=httpx.AsyncClient(transport=_Transport(host, timeout_s), trust_env=False),
    )
