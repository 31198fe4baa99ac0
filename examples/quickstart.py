"""Label twelve sentences with the small model on this machine.

Run it with `python examples/quickstart.py` after `pip install 'icm-api[local]'`.
"""

from __future__ import annotations

import icm_api

SENTENCES = [
    "The striker scored twice in the second half.",
    "Stir the onions until they turn golden.",
    "Our goalkeeper saved a late penalty.",
    "Bake the bread for forty minutes.",
    "She won the race by half a second.",
    "Add a pinch of salt and simmer the sauce.",
    "The coach praised the young defenders.",
    "Whisk the eggs with sugar and vanilla.",
    "They lost the final on their home ground.",
    "Serve the soup hot with fresh basil.",
    "The runner broke the national record.",
    "Marinate the chicken overnight.",
]


def main() -> None:
    rows = [{"id": str(number), "text": text} for number, text in enumerate(SENTENCES)]
    result = icm_api.label(rows, task="classify", labels=["sport", "cooking"])
    for row, text in zip(result.rows, SENTENCES, strict=True):
        print(f"{row.label:8} {row.confidence:.2f}  {text}")
    for warning in result.summary.warnings:
        print("warning:", warning)


if __name__ == "__main__":
    main()
