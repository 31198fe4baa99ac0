"""Every benchmark in turn, the labelling one in its short version: `python -m benchmarks`. Prints markdown."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import (
    client_overhead,
    consistency,
    labelling,
    labelling_report,
    route_overhead,
    search_requests,
    synthetic_sizes,
)
from icm_api.local.models import DEFAULT_MODEL


def label_some() -> None:
    """Nothing is kept, so that the next time measures anew."""
    with tempfile.TemporaryDirectory() as folder:
        labelling.main(["--short", "--results", folder, "--cache-dir", folder])
        labelling_report.main([str(labelling.results_file(Path(folder), DEFAULT_MODEL))])


if __name__ == "__main__":
    print("## Consistency solver\n")
    consistency.main()
    print("\n## Client\n")
    client_overhead.measure_overhead()
    route_overhead.measure()
    client_overhead.measure_local()
    print("## Search\n")
    search_requests.main()
    print()
    synthetic_sizes.main()
    print("\n# Labelling, short version\n", flush=True)
    label_some()
