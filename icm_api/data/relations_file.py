"""Relations between the labels of examples, as the user writes them: one JSON object a line."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from icm_api.data.problems import raise_problems, shown
from icm_api.data.readers import Source, display_name, read_rows
from icm_api.errors import DataError
from icm_api.types import Relation, RelationKind

_KEYS = ("kind", "ids", "label", "price", "source")
_KINDS: tuple[str, ...] = get_args(RelationKind)
_FIXED_MEMBERS: Mapping[str, int] = {"asymmetric": 2, "implies": 2, "transitive": 3}
"""The other kinds take two or more."""
_HOLDS_FOR_SUBSETS = ("at_most_one", "equivalent")


@dataclass(frozen=True, slots=True)
class LoadedRelations:
    """The relations of a file."""

    relations: tuple[Relation, ...]
    dropped: int
    """Relations left out because they speak of examples that a limit on rows cut off."""


def load_relations(
    source: Source,
    ids: Mapping[str, int],
    *,
    positive: int,
    known_labels: Sequence[str],
    cut_ids: Container[str] = frozenset(),
) -> LoadedRelations:
    """Read `{"kind", "ids"}` objects, with optional "label" (the one that counts as holding, else the one at index
    `positive`), "price" (nats, 0 or more; without it the rule may never be broken) and "source" (a remark for people).
    See `Relation` for the kinds.

    `ids` maps an example's id to its index. A relation that also names `cut_ids` is kept for its other members where
    that is sound (`at_most_one` and `equivalent` with two or more left), else dropped and counted.
    Raises one `DataError` with all problems.
    """
    name = display_name(source)
    relations: list[Relation | None] = []
    problems: list[str] = []
    try:
        for row in read_rows(source, format="jsonl"):
            place = f"{name}:{row.line}"
            found = list(_problems(row.values, ids, known_labels, cut_ids))
            problems += [f"{place}: {problem}" for problem in found]
            if not found:
                relations.append(_relation(row.values, ids, positive, known_labels, place))
    except DataError as error:  # nothing can be read after it
        problems += error.problems
    raise_problems(problems)
    return LoadedRelations(tuple(filter(None, relations)), relations.count(None))


def _relation(
    values: Mapping[str, object], ids: Mapping[str, int], positive: int, labels: Sequence[str], place: str
) -> Relation | None:
    """The relation over the members that were not cut off, or None where nothing sound is left of it."""
    kind, names = cast(RelationKind, values["kind"]), [str(name) for name in cast("list[str | int]", values["ids"])]
    label, price = cast("str | None", values.get("label")), cast("float | None", values.get("price"))
    members = tuple(ids[name] for name in names if name in ids)
    if len(members) < len(names) and (kind not in _HOLDS_FOR_SUBSETS or len(members) < 2):
        return None
    return Relation(
        kind=kind,
        members=members,
        positive=positive if label is None else labels.index(label),
        price=None if price is None else float(price),
        source=place,
    )


def _problems(
    values: Mapping[str, object], ids: Mapping[str, int], labels: Sequence[str], cut_ids: Container[str]
) -> Iterator[str]:
    for key in values:
        if key not in _KEYS:
            yield f"unknown key {key!r}; known: {', '.join(_KEYS)}"
    kind, label = values.get("kind"), values.get("label")
    if kind not in _KINDS:
        yield f"unknown kind {shown(kind)}; known: {', '.join(_KINDS)}"
    yield from _member_problems(str(kind), values.get("ids"), ids, cut_ids)
    if label is not None and label not in labels:
        yield f"unknown label {shown(label)}; labels: {', '.join(labels)}"
    if not _is_price(values.get("price")):
        yield f"'price' must be a finite number of nats, 0 or more, not {shown(values['price'])}"
    if not isinstance(values.get("source", ""), str):
        yield f"'source' must be a string, not {shown(values['source'])}"


def _member_problems(kind: str, names: object, ids: Mapping[str, int], cut_ids: Container[str]) -> Iterator[str]:
    if not isinstance(names, list) or not all(_is_id(name) for name in names):
        yield f"'ids' must be a list of ids (strings or whole numbers), not {shown(names)}"
        return
    wanted = _FIXED_MEMBERS.get(kind)
    if wanted is not None and len(names) != wanted:
        yield f"{kind} needs exactly {wanted} ids, not {len(names)}"
    elif len(names) < 2:
        yield f"{kind} needs at least 2 ids, not {len(names)}"
    for name, times in Counter(map(str, names)).items():
        if times > 1:
            yield f"id {name!r} stands in it twice"
        if name not in ids and name not in cut_ids:
            yield f"unknown id {name!r}"


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_price(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max
