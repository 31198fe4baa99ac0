"""Fine-tuning at OpenAI, through the `openai` SDK. It tells no price beforehand."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from icm_api.errors import TransientError
from icm_api.providers.http import Host, printable
from icm_api.providers.openai_compat import sdk_client
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

T = TypeVar("T")

MARK = "icm_api_tuning"
"""Key of the metadata that say which tuning a job belongs to."""
EVENTS = 100
"""Newest lines of the log that are looked at."""
_PHASES: dict[str, Phase] = {"succeeded": "done", "failed": "failed", "cancelled": "cancelled"}


def problem_with(path: Path, method: Method) -> str | None:
    """What the SDK's own types have against a training file; None: nothing. The SDK brings no check."""
    from openai.types.chat import ChatCompletionAssistantMessageParam, ChatCompletionMessageParam
    from pydantic import TypeAdapter, ValidationError

    asked = TypeAdapter(list[ChatCompletionMessageParam])
    answered = TypeAdapter(list[ChatCompletionAssistantMessageParam])
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            record = json.loads(line)
            try:
                if method == "sft":
                    asked.validate_python(record["messages"])
                    answered.validate_python(record["messages"][-1:])
                else:
                    asked.validate_python(record["input"]["messages"])
                    answered.validate_python(record["preferred_output"])
                    answered.validate_python(record["non_preferred_output"])
            except (ValidationError, KeyError) as error:
                return f"line {number} is no record for {method}: {error}"
    return None


class OpenAITuner:
    """A `Tuner`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._client = sdk_client(host, EXCHANGE_S)

    @property
    def host(self) -> Host:
        return self._host

    async def check(self, order: Order) -> None:
        """Nothing can be asked beforehand."""

    async def upload(self, path: Path) -> str:
        client = sdk_client(self._host, UPLOAD_S)
        try:
            return id_of(await self._asked(client.files.create(file=path, purpose="fine-tune")), self._host)
        finally:
            await client.close()

    async def is_ready(self, file_id: str) -> bool:  # noqa: ARG002
        """The job itself begins with a look at its files."""
        return True

    async def estimate(self, order: Order, files: FileIds) -> Estimate:  # noqa: ARG002
        return Estimate(None)

    async def launch(self, order: Order, files: FileIds) -> str:
        kind = "supervised" if order.method == "sft" else "dpo"
        method: Any = {"type": kind, kind: {"hyperparameters": {"n_epochs": order.epochs}}}
        job = await self._asked(
            self._client.fine_tuning.jobs.create(
                model=order.base_model,
                training_file=files.training,
                validation_file=files.validation,
                method=method,
                suffix=order.suffix,
                metadata={MARK: order.mark},
            )
        )
        return id_of(job, self._host)

    async def find(self, order: Order, files: FileIds, since_s: float) -> str | None:  # noqa: ARG002
        """By our mark. Jobs come newest first, so a host that ignores the filter is not read to the end."""
        with _told_as_errors(self._host):
            async for job in self._client.fine_tuning.jobs.list(metadata={MARK: order.mark}):
                if (job.metadata or {}).get(MARK) == order.mark:
                    return id_of(job, self._host)
                if job.created_at < since_s:
                    return None
        return None

    async def standing(self, job_id: str) -> Standing:
        job = await self._asked(self._client.fine_tuning.jobs.retrieve(job_id))
        why = printable(f"{job.error.message} ({job.error.code})") if job.error and job.error.message else None
        tuned = printable(job.fine_tuned_model) if job.fine_tuned_model else None
        return Standing(_PHASES.get(job.status, "going"), printable(job.status), tuned_model=tuned, failure=why)

    async def events(self, job_id: str) -> tuple[Event, ...]:
        page = await self._asked(self._client.fine_tuning.jobs.list_events(job_id, limit=EVENTS))
        return tuple(Event(event.id, printable(event.message)) for event in reversed(page.data))

    async def aclose(self) -> None:
        await self._client.close()

    async def _asked(self, answer: Awaitable[T]) -> T:
        with _told_as_errors(self._host):
            found = await answer
        if isinstance(found, str):  # what the SDK makes of a body that is not JSON
            raise self._host.error(TransientError, f"the reply of {self._host.base_url} is not complete JSON")
        return found


@contextmanager
def _told_as_errors(host: Host) -> Iterator[None]:
    """What the SDK raises, as the errors that it means."""
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        raise refusal(error.response, host) from None
    except openai.APIConnectionError as error:
        raise host.unreachable(error.__cause__ or error) from None
    except json.JSONDecodeError:
        raise host.error(TransientError, f"the reply of {host.base_url} is not complete JSON") from None
