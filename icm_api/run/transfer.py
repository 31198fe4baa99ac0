"""New examples asked about with a run's labelled examples as context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from icm_api.config import HOST_KEYS, RunConfig
from icm_api.core.demonstrations import choose_demonstrations
from icm_api.core.relations import pins
from icm_api.errors import DataError
from icm_api.providers.base import Provider
from icm_api.run.job import Job, checked_problem
from icm_api.run.load import LoadedRun
from icm_api.run.resume import settings

DEMONSTRATIONS = 64
"""As many as `sweep --pool` shows to the examples outside its pool."""

OF_THE_RUN = ("relations", "pin", "class_prior", "limit", "format", "out")
"""Settings that say something of the run's own data."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """New examples beside those of a run that are shown to them or tied to them by a rule.

    The run's come first. Their labels are pinned, so that the rules between old and new bind the new ones alone.
    """

    job: Job
    shown: tuple[int, ...]
    """Demonstrations, in order."""
    labels: tuple[int | None, ...]
    """Of the run's examples in `job`; None for the new ones."""
    new: range
    """The new examples."""


def transfer_settings(loaded: LoadedRun, data: str, given: Mapping[str, Any]) -> RunConfig:
    """The run's settings over other data; what is `given` takes the place of the run's.

    Another provider leaves behind what the run had said of its own. The file of relations is about the run's ids, and
    its shares and limit about its rows, so they stay behind too; the method plays no part. Raises ConfigError.
    """
    manifest, provider = loaded.manifest, loaded.job.config.provider
    if given.get("provider", provider) != provider:
        kept = {name: value for name, value in manifest.config.items() if name not in HOST_KEYS}
        manifest = replace(manifest, config=kept, given=tuple(name for name in manifest.given if name not in HOST_KEYS))
    config = settings(loaded.path, manifest, {**given, "data": data})
    left_behind = {name: None for name in OF_THE_RUN if given.get(name) is None}
    return config.model_copy(update={**left_behind, "method": "zero-shot"})


def demonstrations(loaded: LoadedRun, most: int | None) -> list[int]:
    """Examples of the run to show, as `choose_demonstrations` does; labels that a person gave are the surest. Raises
    DataError when the run labelled none."""
    config, names = loaded.job.config, loaded.job.label_names
    chosen = choose_demonstrations(
        loaded.labels,
        [1.0 if row.pinned else row.confidence for row in loaded.rows],  # a person is not unsure as the model may be
        n_labels=len(names),
        most=most or min(DEMONSTRATIONS, config.max_demonstrations or DEMONSTRATIONS),
        seed=config.seed,
    )
    if not chosen:
        raise DataError(f"{loaded.path}: the run has labelled no example, so there is nothing to show")
    return chosen


def beside(loaded: LoadedRun, new: Job, shown: Sequence[int]) -> Transfer:
    """The new examples with `shown` examples of the run, and those that the task's rules tie to a new one.

    Raises DataError when no labels of the new examples go with the run's.
    """
    n, everything = len(loaded.job.examples), (*loaded.job.examples, *new.examples)
    tying = [relation for relation in new.task.relations(everything) if max(relation.members) >= n]
    tied = {member for relation in tying for member in relation.members if member < n}
    old = [*shown, *sorted(tied - set(shown))]
    kept = [*old, *range(n, len(everything))]
    place = {i: k for k, i in enumerate(kept)}
    labels = [loaded.labels[i] for i in old]
    relations = [
        *(replace(relation, members=tuple(place[m] for m in relation.members)) for relation in tying),
        *pins({k: label for k, label in enumerate(labels) if label is not None}, source=str(loaded.path)),
    ]
    # both files may have the same ids, and messages name them
    examples = [replace(loaded.job.examples[i], id=f"{loaded.path.name}:{loaded.job.examples[i].id}") for i in old]
    examples += new.examples
    job = Job(
        config=new.config,
        task=new.task,
        dataset=new.dataset,
        examples=tuple(examples),
        texts=(*(loaded.job.texts[i] for i in old), *new.texts),
        problem=checked_problem(examples, relations, len(new.task.labels)),
        shares=None,
        notices=(),
    )
    return Transfer(
        job, tuple(range(len(shown))), (*labels, *(None,) * len(new.examples)), range(len(old), len(examples))
    )


def other_model(loaded: LoadedRun, provider: Provider) -> tuple[str, ...]:
    """A note where the provider is not the one that made the run's labels."""
    same = dict(provider.identity) == dict(loaded.manifest.provider)
    return () if same else ("the model or host asked is not the one that made the run's labels",)
