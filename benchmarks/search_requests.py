"""How many label scores the search asks: `python -m benchmarks.search_requests` (offline learner, no rules, one seed).

`--fidelity paper` asks for every term of the utility again at each change; the default asks for the visited example.
Beyond 256 examples (`--max-demonstrations`) a core of 256 settles first, and each other one is asked about once.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import icm_api
from icm_api.providers.synthetic import Synthetic

LABELS = ("negative", "positive")


def row(n: int) -> str:
    rows = [{"id": str(i), "text": f"item {i}"} for i in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        result = icm_api.label(
            rows, task="classify", labels=LABELS, provider="synthetic", cache=False, run_dir=Path(folder)
        )
    texts = [f"Text: item {i}\nLabel:" for i in range(n)]
    truth = [LABELS[Synthetic().truth(text, 2)] for text in texts]
    right = sum(found.label == true for found, true in zip(result.rows, truth, strict=True))
    asked = result.summary.requests
    paper = asked + result.summary.requests_saved
    return f"| {n} | {asked:,} ({asked / n:.1f} a label) | {paper:,} ({paper / asked:.0f}x) | {right / n:.2f} |"


def main() -> None:
    print("| examples | asked, default | the same steps, `--fidelity paper` | accuracy |")
    print("| ---: | ---: | ---: | ---: |")
    for n in (64, 256, 1024):
        print(row(n), flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # nothing to choose: `--help` runs nothing
    main()
