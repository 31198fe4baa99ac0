"""A task of your own as a class, for what a TOML file cannot say: here personal data never reach the host.

- `python examples/custom_task.py` labels nine support tickets with the small model on this machine.
- `PYTHONPATH=examples icm-api run DATA --task custom_task:Tickets ...` uses the task from the command line.

A class may override `text` (what a prompt shows of an example), `prepare` (groups and keys) and `relations` (rules; see
custom_relation.py). What fits in a template, labels and the two rules that come along needs no class: custom_task.toml.
"""

from __future__ import annotations

import re

import icm_api
from icm_api.tasks.base import Task
from icm_api.tasks.labels import labels_from_names
from icm_api.tasks.template import Template
from icm_api.types import Example

MASKS = {
    r"\S+@\S+\w": "[address]",
    r"\d[\d -]{5,}\d": "[number]",
}


class Tickets(Task):
    """Which team answers a ticket?"""

    def __init__(self) -> None:
        super().__init__(
            name="tickets",
            template=Template("Ticket: {text}\nTeam:"),
            labels=labels_from_names(["billing", "delivery", "login"]),
            preamble="Tickets of a web shop and the team that answers each: billing, delivery or login.",
        )

    def text(self, example: Example) -> str:
        return mask(super().text(example))


def mask(text: str) -> str:
    for pattern, name in MASKS.items():
        text = re.sub(pattern, name, text)
    return text


TICKETS = [
    "I was charged twice for order 4711-220-981. Please refund one payment.",
    "The parcel has not arrived. Where is it? Ring me at 0170 555 0143.",
    "I forgot my password, and the reset mail to ann@example.org never comes.",
    "The invoice shows the wrong amount.",
    "The courier left my package at the wrong door.",
    "My account is locked after three wrong passwords.",
    "Why was my card 4000 1234 5678 9010 debited before you shipped?",
    "Tracking number 993 120 441 has said 'in transit' for two weeks.",
    "I cannot sign in as bob@example.com since I changed my phone.",
]


def main() -> None:
    result = icm_api.label([{"text": text} for text in TICKETS], task="custom_task:Tickets")
    for row, text in zip(result.rows, TICKETS, strict=True):
        print(f"{row.label:8} {row.confidence:.2f}  {mask(text)}")


if __name__ == "__main__":
    main()
