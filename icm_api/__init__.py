"""Label a dataset with a language model and no human labels, by Internal Coherence Maximization.

    import icm_api
    result = icm_api.label("reviews.jsonl", task="classify", labels=["negative", "positive"])
    for row in result.rows:
        print(row.id, row.label, row.confidence)

`icm_api.alabel` is the same for asynchronous code. Both take the flags of `icm-api run` as keywords, such as
`provider="together"`, `model=...`, `max_usd=2`, and fill in the rest from ICM_API_* variables. Of a result, `summary`
has the verdict, warnings and cost; `run_dir` is the run's folder. The command line is `icm-api`; checks for adapters of
your own are in `icm_api.testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icm_api.run.api import alabel as alabel
    from icm_api.run.api import label as label

__all__ = ["alabel", "label"]


def __getattr__(name: str) -> Any:
    """Imported at first use, so that `import icm_api` and `icm-api --help` answer at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from icm_api.run import api

    return getattr(api, name)
