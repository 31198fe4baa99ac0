"""What the offline learner expects after a text or a conversation: the numbers behind the stand-in servers."""

import asyncio
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from icm_api.providers.synthetic import Synthetic
from icm_api.types import Candidate, Position, Prompt, SequenceRequest

LABELS_LINE = "\n\nLabels: "
"""Where a question of the votes route begins to list its labels."""


@dataclass
class Learner:
    """One model. `labels`: texts of the labels that stand in prompts, each one token."""

    labels: tuple[str, ...]
    model: Synthetic = field(default_factory=Synthetic)
    votes: int = 0

    def positions(self, prompt: Prompt) -> Sequence[Position]:
        return asyncio.run(self.model.send(SequenceRequest(prompt, self.labels))).positions

    def next(self, prompt: Prompt, top_k: int) -> tuple[Candidate, ...]:
        """The likeliest continuations, best first."""
        return self.positions(prompt)[-1].candidates[:top_k]

    def answer(self, prompt: Prompt, top_k: int) -> list[tuple[str, float]]:
        """The likeliest first words of a chat's answer: without the space that joins a word to a text."""
        return [(c.text.removeprefix(" "), c.logprob_nats) for c in self.next(prompt, top_k)]

    def vote(self, turns: Sequence[tuple[str, str]]) -> str:
        """An answer to a question of the votes route, drawn as the learner expects it: `{"label": "..."}`."""
        *shown, (_, asked) = [(role, text) for role, text in turns if role != "system"]
        answers = [(role, text if role == "user" else json.loads(text)["label"]) for role, text in shown]
        prompt = heard([*answers, ("user", asked.rpartition(LABELS_LINE)[0])])
        shares = {c.text: math.exp(c.logprob_nats) for c in self.next(prompt, 20) if c.text in self.labels}
        self.votes += 1
        (label,) = random.Random(self.votes).choices(list(shares), list(shares.values()))
        return json.dumps({"label": label.removeprefix(" ")})

    def parsed(self, text: str) -> Prompt:
        """The prompt that reads so: blocks that end with a label, the query last, perhaps a preamble first."""
        *blocks, query = text.split("\n\n")
        preamble = blocks.pop(0) if blocks and not blocks[0].endswith(self.labels) else ""
        shown = [next((b.removesuffix(label), label) for label in self.labels if b.endswith(label)) for b in blocks]
        return Prompt(query, tuple(shown), preamble)


def heard(turns: Sequence[tuple[str, str]]) -> Prompt:
    """The prompt that was sent as turns of a chat."""
    said = [text for role, text in turns if role != "system"]
    shown = [(text, f" {label}") for text, label in zip(said[:-1:2], said[1::2], strict=True)]
    return Prompt(said[-1], tuple(shown), turns[0][1] if turns[0][0] == "system" else "")
