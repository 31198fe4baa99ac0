"""Two hosts that fine-tune, as their SDKs and documentation describe them, on loopback.

Together: a file goes to the address that the host names (its store), and is looked at before a price is told. OpenAI: a
file is a form, jobs carry metadata, and the log comes newest first. What their schemas do not have is refused.
"""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

CREATED_S = 1_800_000_000
PRICE_USD = 1.25


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, bytes]:
        """Parts of a multipart body by name."""
        message = BytesParser(policy=HTTP).parsebytes(
            b"Content-Type: " + self.headers["content-type"].encode() + b"\r\n\r\n" + self.body
        )
        return {
            str(part.get_param("name", header="content-disposition")): bytes(part.get_payload(decode=True))
            for part in message.iter_parts()
        }


@dataclass
class Said:
    """A reply. `drop`: hang up without one. `hold`: say nothing until the test is over."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    hold: bool = False


DROP = Said(drop=True)
Fault = Said | Callable[[Asked], Said | None]


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class TuningServer:
    """What both have in common. `faults`: replies that come first on `METHOD path`, before or instead of the usual one;
    `after`: the same, but once the host has done what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.faults: dict[str, list[Fault]] = {}
        self.after: dict[str, list[Fault]] = {}
        self.files: dict[str, bytes] = {}
        self.jobs: list[dict[str, Any]] = []
        self.course: list[str] = []
        """Statuses of a job, one each time that it is asked for; the last stays."""
        self.log: list[str] = ["the job begins", "epoch 1 complete"]
        self.released = threading.Event()
        self._http = _Quiet(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def requests(self, name: str) -> list[Asked]:
        """Those of `METHOD path`; the path without its query."""
        return [asked for asked in self.asked if _name(asked) == name]

    def reply(self, asked: Asked) -> Said:
        self.asked.append(asked)
        return _first(self.faults, asked) or self._usual(asked)

    def _usual(self, asked: Asked) -> Said:
        for pattern, answer in self.routes().items():
            if found := re.fullmatch(pattern, _name(asked)):
                said = Said(answer(asked, *found.groups()))
                said = said.body if isinstance(said.body, Said) else said
                return _first(self.after, asked) or said
        return Said({"error": {"message": "no such route", "type": "not_found"}}, 404)

    def routes(self) -> dict[str, Callable[..., Any]]:
        raise NotImplementedError

    def status(self) -> str:
        return self.course.pop(0) if len(self.course) > 1 else self.course[0]


class TogetherTuning(TuningServer):
    """`store`: another server that takes the files; None: this one."""

    def __init__(self, store: TuningServer | None = None) -> None:
        super().__init__()
        self.store = store or self
        self.course = ["pending", "running", "completed"]
        self.looks = 1
        """How often a file is still being looked at when asked for."""
        self.estimate: dict[str, Any] = {
            "estimation_available": True,
            "estimated_total_price": PRICE_USD,
            "estimated_train_token_count": 4321,
            "estimated_eval_token_count": 0,
            "allowed_to_proceed": True,
            "user_limit": 100,
        }

    def routes(self) -> dict[str, Callable[..., Any]]:
        return {
            r"GET /v1/fine-tunes/models/limits": self._limits,
            r"POST /v1/files": self._begin,
            r"PUT /store/(.+)": self.keep,
            r"POST /v1/files/(.+)/preprocess": lambda _, id: self._file(id, "QUEUED"),
            r"GET /v1/files/(.+)": self._look,
            r"POST /v1/fine-tunes/estimate-price": self._price,
            r"POST /v1/fine-tunes": self._launch,
            r"GET /v1/fine-tunes": lambda _: {"data": [_without(job, "events") for job in self.jobs]},
            r"GET /v1/fine-tunes/([^/]+)": self._job,
            r"GET /v1/fine-tunes/(.+)/events": lambda _, id: {"data": [self._event(k) for k in range(len(self.log))]},
        }

    def _limits(self, asked: Asked) -> Any:
        assert parse_qs(urlsplit(asked.path).query)["model_name"] == ["meta/base"]
        batch = {"max_batch_size": 8, "max_batch_size_dpo": 8, "min_batch_size": 8}
        return {
            "model_name": "meta/base",
            "max_num_epochs": 20,
            "max_num_evals": 100,
            "max_num_checkpoints": 10,
            "min_learning_rate": 1e-8,
            "max_learning_rate": 0.01,
            "default_gradient_accumulation_steps": 1,
            "max_seq_length_sft": 8192,
            "max_seq_length_dpo": 8192,
            "min_max_seq_length": 32,
            "merge_output_lora": True,
            "supports_full_training": False,
            "supports_reasoning": False,
            "supports_tools": True,
            "supports_vision": False,
            "lora_training": {"default_rank": 16, "max_rank": 64, "target_modules": ["q_proj"], **batch},
        }

    def _begin(self, asked: Asked) -> Said:
        form = asked.form
        assert (form["purpose"], form["file_type"]) == (b"fine-tune", b"jsonl")
        if (id := f"file-{form['checksum'].decode()[:8]}") in self.files:
            return Said({"file_id": id}, 409)
        return Said(None, 302, {"Location": f"{self.store.url}/store/{id}", "X-Together-File-Id": id})

    def keep(self, asked: Asked, id: str) -> Any:
        self.files[id] = asked.body
        return {}

    def _file(self, id: str, status: str) -> Any:
        kept = self.store.files[id]
        self.files[id] = kept
        return {
            "id": id,
            "object": "file",
            "bytes": len(kept),
            "created_at": CREATED_S,
            "filename": "train.jsonl",
            "FileType": "jsonl",
            "purpose": "fine-tune",
            "processing_status": status,
        }

    def _look(self, asked: Asked, id: str) -> Any:
        self.looks -= 1
        return self._file(id, "RUNNING" if self.looks >= 0 else "COMPLETED")

    def _price(self, asked: Asked) -> Any:
        files = {"training_file", "validation_file"}
        assert set(asked.json) <= {"model", "n_epochs", "n_evals", "training_method", "training_type", *files}
        assert asked.json["training_file"] in self.files
        return self.estimate

    def _launch(self, asked: Asked) -> Any:
        body = asked.json
        assert body["training_file"] in self.files
        job = {
            "id": f"ft-{len(self.jobs)}",
            "status": "pending",
            "user_id": "u",
            "created_at": "2036-01-01T00:00:00Z",
            "updated_at": "2036-01-01T00:00:00Z",
            **{name: body.get(name) for name in ("model", "training_file", "validation_file", "suffix", "n_epochs")},
            "model_output_name": f"me/base-{body['suffix']}",
        }
        self.jobs.append(job)
        return job

    def _job(self, asked: Asked, id: str) -> Any:
        status = self.status()
        progress = {"estimate_available": status == "running", "seconds_remaining": 600}
        return {**next(job for job in self.jobs if job["id"] == id), "status": status, "progress": progress}

    def _event(self, k: int) -> Any:
        failed = self.course == ["error"] and k == len(self.log) - 1
        return {
            "object": "fine-tune-event",
            "created_at": f"2036-01-01T00:00:0{k}Z",
            "message": self.log[k],
            "type": "job_error" if failed else "epoch_complete",
            "level": "error" if failed else "info",
        }


class OpenAITuning(TuningServer):
    def __init__(self) -> None:
        super().__init__()
        self.course = ["validating_files", "running", "succeeded"]
        self.error: dict[str, Any] | None = None

    def routes(self) -> dict[str, Callable[..., Any]]:
        return {
            r"POST /v1/files": self._upload,
            r"POST /v1/fine_tuning/jobs": self._launch,
            r"GET /v1/fine_tuning/jobs": self._list,
            r"GET /v1/fine_tuning/jobs/([^/]+)": self._job,
            r"GET /v1/fine_tuning/jobs/(.+)/events": self._events,
        }

    def _upload(self, asked: Asked) -> Any:
        assert asked.form["purpose"] == b"fine-tune"
        id = f"file-{len(self.files)}"
        self.files[id] = asked.form["file"]
        return {
            "id": id,
            "object": "file",
            "bytes": len(self.files[id]),
            "created_at": CREATED_S,
            "filename": "train.jsonl",
            "purpose": "fine-tune",
            "status": "processed",
        }

    def _launch(self, asked: Asked) -> Any:
        body = asked.json
        assert set(body) <= {"model", "training_file", "validation_file", "method", "suffix", "metadata", "seed"}
        assert body["training_file"] in self.files
        job = {
            "id": f"ftjob-{len(self.jobs)}",
            "object": "fine_tuning.job",
            "created_at": 2_100_000_000,
            "organization_id": "org",
            "result_files": [],
            "hyperparameters": {},
            "seed": 1,
            "status": "validating_files",
            **body,
        }
        self.jobs.append(job)
        return job

    def _list(self, asked: Asked) -> Any:
        wanted = {
            name.removeprefix("metadata[").removesuffix("]"): values[0]
            for name, values in parse_qs(urlsplit(asked.path).query).items()
            if name.startswith("metadata[")
        }
        fitting = [job for job in reversed(self.jobs) if wanted.items() <= job["metadata"].items()]
        return {"object": "list", "data": fitting, "has_more": False}

    def _job(self, asked: Asked, id: str) -> Any:
        status = self.status()
        tuned = f"ft:{self.jobs[0]['model']}:org::{id}" if status == "succeeded" else None
        job = next(job for job in self.jobs if job["id"] == id)
        error = self.error if status == "failed" else None
        return {**job, "status": status, "fine_tuned_model": tuned, "error": error}

    def _events(self, asked: Asked, id: str) -> Any:
        lines = [
            {"id": f"e{k}", "object": "fine_tuning.job.event", "created_at": k, "level": "info", "message": message}
            for k, message in enumerate(self.log)
        ]
        return {"object": "list", "data": lines[::-1], "has_more": False}


def _name(asked: Asked) -> str:
    return f"{asked.method} {urlsplit(asked.path).path}"


def _first(replies: dict[str, list[Fault]], asked: Asked) -> Said | None:
    waiting = replies.get(_name(asked))
    if not waiting:
        return None
    fault = waiting.pop(0)
    return fault(asked) if callable(fault) else fault


def _without(job: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in job.items() if key != name}


def _handler(server: TuningServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            said = server.reply(Asked(self.command, self.path, headers, body))
            if said.hold:
                server.released.wait()
            if said.hold or said.drop:
                self.close_connection = True
                return
            payload = json.dumps(said.body).encode()
            self.send_response(said.status)
            for name, value in {"Content-Type": "application/json", **said.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PUT = _reply

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
