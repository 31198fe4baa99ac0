"""Labelled examples as records that other programs read: tables, files for fine-tuning, predictions to review.

Pure: what goes in are plain values, what comes out are JSON values. Gold can reach a record only as one of the columns
that say where a label comes from (`Labelled.provenance`), never what a model is trained on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from icm_api.errors import ConfigError
from icm_api.spelling import did_you_mean
from icm_api.types import Json

Record: TypeAlias = Mapping[str, Json]
Suffix = Literal[".jsonl", ".csv", ".parquet", ".json"]

PAIR_FIELDS = ("prompt", "response_a", "response_b")
"""Of a task that compares two responses; its positive label says that A is the better one."""
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
"""What makes a cell a formula to a spreadsheet (owasp.org/www-community/attacks/CSV_Injection)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What an export needs to know of a task."""

    name: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    question_field: str | None = None
    """The field that the examples of a group share (`Task.group_from`)."""

    @property
    def compares(self) -> bool:
        """Whether an example is a pair of responses, of which the label names the better."""
        return set(self.fields) == set(PAIR_FIELDS) and len(self.labels) == 2

    @property
    def answer_field(self) -> str | None:
        """The field that answers the `question_field`, where these two are all and the label says yes or no."""
        others = [name for name in self.fields if name != self.question_field]
        asked = self.question_field is not None and not self.compares
        return others[0] if asked and len(others) == 1 and len(self.labels) == 2 else None


@dataclass(frozen=True, slots=True)
class Labelled:
    """An example with its label."""

    id: str
    fields: Mapping[str, str]
    prompt: str
    """As a model was asked about it: it ends where the label starts."""
    label: str
    label_text: str
    """The label as a continuation of the prompt; begins with its space."""
    holds: bool
    """Whether it is the task's positive label."""
    confidence: float
    exchange: tuple[str, str] | None
    """A question and the answer that is judged, of a task that has both (`Shape.answer_field`)."""
    provenance: Record
    """Columns that say where the label comes from; their names begin with `icm_`."""


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file. `records` gives those of one example: none, one, or (a pair taken apart) two."""

    suffix: Suffix
    about: str
    records: Callable[[Labelled], Iterator[Record]]
    needs: Callable[[Shape], str | None] = lambda _: None
    """What the format needs and the task has not; None: it has it."""
    of_preferences: bool = False
    provenance: Literal["columns", "inside", "beside"] = "columns"
    """Where it stands. `inside`: `records` puts it there. `beside`: in a file of its own, as readers of the format
    refuse columns that they don't know."""


@dataclass(frozen=True, slots=True)
class Exported:
    """Records, and what each of them rests on, line by line."""

    records: tuple[Record, ...]
    provenance: tuple[Record, ...]
    """Empty where the records carry it themselves."""


def find_format(name: str) -> Format:
    """Raises ConfigError for a name that is not in `FORMATS`."""
    if name not in FORMATS:
        raise ConfigError(f"--format: unknown format {name!r}.{did_you_mean(name, FORMATS)} Known: {_list(FORMATS)}")
    return FORMATS[name]


def check_shape(name: str, shape: Shape) -> None:
    """Raise ConfigError that says what the format needs, unless the task has it."""
    if problem := find_format(name).needs(shape):
        raise ConfigError(
            f"--format {name}: it needs {problem}; task {shape.name} has the fields {_list(shape.fields)} and the "
            f"labels {_list(shape.labels)}"
        )


def distinct(name: str, shape: Shape, items: Sequence[Labelled]) -> tuple[list[Labelled], dict[str, int]]:
    """The items that a format can say, and how many it leaves out, by reason.

    Only formats of preferences leave any out. A pair shown in both orders, or twice, is one preference and counts
    once; a pair with two different winners, with equal responses or with an empty one is none.
    """
    if not (find_format(name).of_preferences and shape.compares):
        return list(items), {}
    winners: dict[tuple[str, frozenset[str]], set[str]] = {}
    for item in items:
        winners.setdefault(_pair(item), set()).add(_ranked(item)[0])
    kept: dict[tuple[str, frozenset[str]], Labelled] = {}
    left_out = {"same pair again": 0, "contradicted": 0, "nothing to prefer": 0}
    for item in items:
        if not all(part.strip() for part in _ranked(item)) or len(_pair(item)[1]) < 2:
            left_out["nothing to prefer"] += 1
        elif len(winners[_pair(item)]) > 1:
            left_out["contradicted"] += 1
        elif _pair(item) in kept:
            left_out["same pair again"] += 1
        else:
            kept[_pair(item)] = item
    return list(kept.values()), {reason: n for reason, n in left_out.items() if n}


def export(name: str, shape: Shape, items: Sequence[Labelled]) -> Exported:
    """The records of a format, in the order of the items. Raises as `find_format` and `check_shape`."""
    format = find_format(name)
    check_shape(name, shape)
    pairs = [(record, item.provenance) for item in items for record in format.records(item)]
    if format.provenance == "columns":
        return Exported(tuple({**record, **source} for record, source in pairs), ())
    beside = tuple(source for _, source in pairs) if format.provenance == "beside" else ()
    return Exported(tuple(record for record, _ in pairs), beside)


def csv_text(records: Sequence[Record]) -> tuple[str, int]:
    """(CSV with a header, how many cells were made safe). The columns are those of the first record.

    A text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    file, guarded = io.StringIO(), 0
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # else a lone CR would end a row
    writer.writerow(records[0])
    for record in records:
        cells = list(record.values())
        safe = [safe_cell(cell) for cell in cells]
        guarded += sum(a is not b for a, b in zip(cells, safe, strict=True))
        writer.writerow(safe)
    return file.getvalue(), guarded


def safe_cell(value: Json) -> Json:
    """The value itself unless it is a text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def label_studio_config(shape: Shape) -> str:
    """The labelling interface that the predictions fit (labelstud.io/guide/predictions)."""
    choices = "".join(f"<Choice value={_attribute(label)}/>" for label in shape.labels)
    return (
        '<View><Text name="text" value="$text"/>'
        f'<Choices name="label" toName="text" choice="single">{choices}</Choices></View>'
    )


# --- tables -------------------------------------------------------------------------------------------------------


def _table(item: Labelled) -> Iterator[Record]:
    ours = {"id", "label", *item.provenance}
    fields: dict[str, Json] = {_column(name, ours, item.fields): text for name, text in item.fields.items()}
    yield {"id": item.id, **fields, "label": item.label}


def _column(field: str, ours: Collection[str], fields: Collection[str]) -> str:
    """For a field: its own name, or where that is one of ours, a name that no column has."""
    name = field
    while name in ours or (name != field and name in fields):
        name = f"field_{name}"
    return name


# --- one example, one answer --------------------------------------------------------------------------------------


def _prompt_completion(item: Labelled) -> Iterator[Record]:
    yield {"prompt": item.prompt, "completion": item.label_text}


def _conversational(item: Labelled) -> Iterator[Record]:
    yield {"prompt": [_user(item.prompt)], "completion": [_assistant(item.label_text.strip())]}


def _chat(item: Labelled) -> Iterator[Record]:
    yield {"messages": [_user(item.prompt), _assistant(item.label_text.strip())]}


# --- preferences --------------------------------------------------------------------------------------------------


def _needs_pairs(shape: Shape) -> str | None:
    return None if shape.compares else f"a task with two labels whose fields are {_list(PAIR_FIELDS)}"


def _needs_answers(shape: Shape) -> str | None:
    if shape.compares or shape.answer_field is not None:
        return None
    return (
        f"a task with two labels whose fields are {_list(PAIR_FIELDS)}, or a question that is the group (group_from) "
        "and its answer"
    )


def _preference(item: Labelled) -> Iterator[Record]:
    """As a conversation: a bare text would run on from the prompt without a word between."""
    chosen, rejected = _ranked(item)
    yield {
        "prompt": [_user(item.fields["prompt"])],
        "chosen": [_assistant(chosen)],
        "rejected": [_assistant(rejected)],
    }


def _preference_file(item: Labelled) -> Iterator[Record]:
    chosen, rejected = _ranked(item)
    yield {
        "input": {"messages": [_user(item.fields["prompt"])]},
        "preferred_output": [_assistant(chosen)],
        "non_preferred_output": [_assistant(rejected)],
    }


def _unpaired(item: Labelled) -> Iterator[Record]:
    if item.exchange is not None:
        yield _judged(*item.exchange, good=item.holds)
    else:
        chosen, rejected = _ranked(item)
        yield _judged(item.fields["prompt"], chosen, good=True)
        yield _judged(item.fields["prompt"], rejected, good=False)


def _judged(prompt: str, answer: str, *, good: bool) -> Record:
    return {"prompt": [_user(prompt)], "completion": [_assistant(answer)], "label": good}


def _ranked(item: Labelled) -> tuple[str, str]:
    """(the better response, the other)."""
    a, b = item.fields["response_a"], item.fields["response_b"]
    return (a, b) if item.holds else (b, a)


def _pair(item: Labelled) -> tuple[str, frozenset[str]]:
    """What both orders of a pair have in common."""
    return item.fields["prompt"], frozenset((item.fields["response_a"], item.fields["response_b"]))


# --- predictions to review ----------------------------------------------------------------------------------------


def _label_studio(item: Labelled) -> Iterator[Record]:
    """Source: labelstud.io/guide/predictions and /guide/task_format. One prediction a task, at its `label` control."""
    choice: Json = {
        "id": "icm-label",
        "from_name": "label",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": [item.label]},
    }
    source = item.provenance
    yield {
        "data": {"text": item.prompt, "id": item.id, **{name: source[name] for name in source}},
        "predictions": [
            {
                "model_version": f"{source['icm_model']} {source['icm_run']}",
                "score": item.confidence,
                "result": [choice],
            }
        ],
    }


# --- the parts ----------------------------------------------------------------------------------------------------


def _user(text: str) -> Json:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Json:
    return {"role": "assistant", "content": text}


def _attribute(text: str) -> str:
    """A quoted XML attribute."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return f'"{text}"'


def _list(names: Collection[str]) -> str:
    return ", ".join(names)


FORMATS: Mapping[str, Format] = {
    "jsonl": Format(".jsonl", "a table, one JSON object a line", _table),
    "csv": Format(".csv", "a table for spreadsheets; formulas are made safe", _table),
    "parquet": Format(".parquet", "a typed table", _table),
    "trl-prompt-completion": Format(".jsonl", "TRL's SFTTrainer, for base models", _prompt_completion),
    "trl-conversational": Format(".jsonl", "TRL's SFTTrainer, for chat models", _conversational),
    "trl-preference": Format(".jsonl", "TRL's DPOTrainer", _preference, _needs_pairs, of_preferences=True),
    "trl-unpaired-preference": Format(".jsonl", "TRL's KTOTrainer", _unpaired, _needs_answers, of_preferences=True),
    "chat": Format(".jsonl", "OpenAI, Together, Fireworks: supervised", _chat, provenance="beside"),
    "preference": Format(
        ".jsonl",
        "OpenAI, Together, Fireworks: DPO",
        _preference_file,
        _needs_pairs,
        of_preferences=True,
        provenance="beside",
    ),
    "label-studio": Format(".json", "predictions for people to review", _label_studio, provenance="inside"),
}
"""Sources: huggingface.co/docs/trl/dataset_formats; docs.fireworks.ai/fine-tuning/dpo-fine-tuning;
developers.openai.com/api/docs/guides/direct-preference-optimization; labelstud.io/guide/predictions;
docs.together.ai/docs/fine-tuning/data-preparation (a column too many makes the host refuse the file)."""
