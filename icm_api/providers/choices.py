"""A `ChoiceRequest` as chat: what every route asks that counts a host's answers, and how one answer is read.

The order in which labels are offered stands in the last turn only, and the constraint lists them in an order of its
own, so that all draws of a question (and all questions with the same demonstrations) begin alike: a host's prompt
cache can then serve all but the last turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from icm_api.errors import OutOfReachError, ProviderError, TransientError
from icm_api.providers.http import Host
from icm_api.types import ChoiceReply, ChoiceRequest, Json, NextTokenRequest, Prompt, Usage

FIELD = "label"
"""Name of the one member of an answer."""
ANSWER_TOKENS = 64
"""Beside the label itself, room for the JSON around it and for what a host's template writes before it."""
SHOWN_CHARS = 60

_ASKED = "Each message is a text that ends where its label is missing. Answer with the label that belongs there"
_INSTRUCTION = f'{_ASKED}, as JSON: {{"{FIELD}": "..."}}.'


@dataclass(frozen=True, slots=True)
class Question:
    """A `ChoiceRequest` in the turns of a chat."""

    system: str
    """The task's preamble and how to answer; the same for all questions of a run."""
    shown: tuple[tuple[str, str], ...]
    """Demonstrations as (user turn, assistant turn), answered as the model must answer."""
    asked: str
    """The last user turn: the query, then the labels in the order offered."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """As `{"role", "content"}` objects, the system turn first: for hosts with OpenAI's chat."""
        turns = [("system", self.system)]
        for user, assistant in self.shown:
            turns += [("user", user), ("assistant", assistant)]
        return [{"role": role, "content": content} for role, content in (*turns, ("user", self.asked))]


def question(request: ChoiceRequest) -> Question:
    """The chat that asks it. Raises ValueError for an empty query or fewer than two labels."""
    if not request.prompt.query or len(request.labels) < 2:
        raise ValueError("a choice needs a query and at least two labels")
    prompt = request.prompt
    offered = "\n".join(["Answer with one of:", *map(written, request.labels)])
    return Question(
        system=f"{prompt.preamble}{prompt.separator}{_INSTRUCTION}" if prompt.preamble else _INSTRUCTION,
        shown=tuple((text, written(label)) for text, label in prompt.demonstrations),
        asked=f"{prompt.query}{prompt.separator}{offered}",
    )


def one_word(prompt: Prompt, labels: Sequence[str]) -> str:
    """The system turn for chats whose first answered token is read: without it a model that has seen no demonstration
    talks about the text."""
    instruction = f"{_ASKED} and nothing else: {' or '.join(names(labels))}."
    return f"{prompt.preamble}{prompt.separator}{instruction}" if prompt.preamble else instruction


def refuse_continuation(request: NextTokenRequest, host: Host, instead: str = "") -> None:
    """Raise CapabilityError for a question within a label: a turn of a chat begins anew. `instead`: what else to do."""
    if request.continuation:
        advice = "use labels that differ in their first token" + (f", {instead}" if instead else "")
        raise host.incapable(
            f"a chat route cannot go on inside a label (here after {request.continuation!r}): {advice}"
        )


def names(labels: Sequence[str]) -> list[str]:
    """Labels as answers name them: without the space that joins a label to a completion prompt."""
    return [label.removeprefix(" ") for label in labels]


def written(label: str) -> str:
    """An answer, as the model must write it: `{"label": "True"}`."""
    return json_text({FIELD: label.removeprefix(" ")})


def answer_schema(labels: Sequence[str]) -> dict[str, Json]:
    """The JSON schema of an answer: an object whose one member is one of the labels. The same for every order of the
    labels, because hosts let a schema stand before the prompt in what they cache."""
    offered: list[Json] = [*sorted(names(labels))]
    return {
        "type": "object",
        "properties": {FIELD: {"type": "string", "enum": offered}},
        "required": [FIELD],
        "additionalProperties": False,
    }


def answer_tokens(labels: Sequence[str]) -> int:
    """Enough for `max_tokens`: no tokeniser makes more tokens than there are bytes."""
    return ANSWER_TOKENS + max(len(json_text(name).encode()) for name in names(labels))


def replied(read: Callable[[], tuple[float, ...]], usage: Usage, model: str) -> ChoiceReply:
    """The reply for the shares that `read` gives. Where it raises OutOfReachError, one without shares: what the host
    answered is then counted and kept like any other answer. Other errors of `read` are raised."""
    try:
        return ChoiceReply(read(), usage, model)
    except OutOfReachError as error:
        return ChoiceReply((), usage, model, str(error))


def read_text(text: str | None, request: ChoiceRequest, host: Host) -> tuple[float, ...]:
    """Shares for a `ChoiceReply`, a single 1, from the text of an answer.

    Anything but one of the offered labels, to the letter, is an `OutOfReachError`: this answer says nothing about the
    labels, and the counting leaves it out and says so. It is not asked again as it stands: to draw until an answer
    fits would hide that the host does not hold answers to the schema, and what it costs. An answer without any text is
    a TransientError: hosts send such now and then, and nothing was chosen.
    """
    if not (text or "").strip():
        raise host.error(TransientError, "the answer is empty")
    try:
        document: Json = json.loads(text or "")
    except (ValueError, RecursionError):
        raise _no_label(text, host) from None
    return read_object(document, request, host)


def read_object(document: Json, request: ChoiceRequest, host: Host) -> tuple[float, ...]:
    """Like `read_text`, from a decoded answer (a tool's input)."""
    offered = names(request.labels)
    said = document.get(FIELD) if isinstance(document, dict) and len(document) == 1 else None
    if not isinstance(said, str) or offered.count(said) != 1:
        raise _no_label(document, host)
    return tuple(float(name == said) for name in offered)


def refused(request: ChoiceRequest, host: Host, said: str) -> ProviderError:
    """The error for a model that declines to answer (`said`: the host's own word)."""
    begun = json_text(request.prompt.query[:SHOWN_CHARS])
    return host.error(OutOfReachError, f"the model refuses to label the text that begins {begun} ({said})")


def cut_off(host: Host, said: str) -> ProviderError:
    """The error for an answer that ended before it was whole."""
    return host.error(
        OutOfReachError,
        f"the answer was cut off ({said}): the model writes more than a label, such as its thoughts; "
        "turn reasoning off or use another model",
    )


def json_text(value: str | Mapping[str, str]) -> str:
    """As models write it: spaces after colons, no escapes for other scripts."""
    return json.dumps(value, ensure_ascii=False)


def _no_label(said: Json, host: Host) -> ProviderError:
    shown = json.dumps(said, ensure_ascii=False)
    shown = shown if len(shown) <= 2 * SHOWN_CHARS else f"{shown[: 2 * SHOWN_CHARS]}..."
    return host.error(
        OutOfReachError,
        f"the answer is none of the labels offered: {shown}; the host or model does not hold answers to a JSON schema",
    )
