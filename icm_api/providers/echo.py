"""An echoed prompt in OpenAI's legacy shape: what the model expected at every label position.

`{tokens, token_logprobs, top_logprobs, text_offset}` holds one entry a token, the prompt's first. Offsets are not
trusted (SGLang writes -1, others count from 0 without an echo): a position is found by adding up the tokens' own texts,
which must spell the prompt. Only label positions are read; a sequence of 256 examples has ten thousand others. The
first token has nothing before it, so whatever stands there (null, 0, NaN) is no log-probability and never read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from icm_api.errors import CapabilityError
from icm_api.providers.http import Host
from icm_api.providers.listed import SENTINEL_NATS, checked, floor_nats, legacy_entries, nats
from icm_api.types import Candidate, Json, Position, SequenceRequest

SHOWN_CHARS = 40
AGREEMENT_NATS = 0.02
"""A token's own log-prob and its entry in the list of the same place may be rounded apart by so much."""


def echoed_positions(logprobs: Json, request: SequenceRequest, host: Host) -> tuple[Position, ...]:
    """One position for each demonstration from `request.first` on, then one for the query, from a choice's `logprobs`.

    The label that stands at a position is among its candidates with the log-probs of its tokens summed. Raises
    CapabilityError when there is no echo, when its tokens do not spell the prompt, and when a label's first or last
    token holds some of the text around it too.
    """
    echo = _Echo.read(logprobs, request.prompt.text, host)
    return (*echo.labels(request, host), echo.next(len(request.prompt.text), host))


def label_positions(logprobs: Json, request: SequenceRequest, host: Host) -> tuple[Position, ...]:
    """Like `echoed_positions` without the query's position: from the `logprobs` of a prompt alone, as hosts give them
    that keep the prompt apart from what they generated."""
    return _Echo.read(logprobs, request.prompt.text, host).labels(request, host)


def ignored(host: Host) -> CapabilityError:
    """The error for a host that took the request to echo and gave none of the prompt's log-probs."""
    return host.incapable(
        "the host ignored echo: it gave log-probs of what it generated and none of the prompt; use --no-echo"
    )


def _places(request: SequenceRequest) -> Iterator[tuple[int, str]]:
    """Where in the prompt each scored label begins, in characters, and its text."""
    chunks = request.prompt.chunks
    ends = list(itertools.accumulate(map(len, chunks)))
    for k in range(request.first, len(request.prompt.demonstrations)):
        yield ends[2 * k], chunks[2 * k + 1]


@dataclass(frozen=True, slots=True)
class _Echo:
    """The echoed tokens, from the first one of the prompt on."""

    tokens: list[str]
    logprobs: list[Json]
    tops: list[Json]
    begins: Mapping[int, int]
    """Place in the prompt, in characters -> the token that begins there (of several, the last). Not the first of all,
    which has no log-prob."""

    @classmethod
    def read(cls, logprobs: Json, prompt: str, host: Host) -> _Echo:
        columns = _columns(logprobs, host)
        tokens = [str(token) for token in columns[0]]
        start = _start(tokens, prompt, host)
        tokens, values, tops = tokens[start:], columns[1][start:], columns[2][start:]
        places = zip(itertools.accumulate(map(len, tokens), initial=0), range(len(tokens)), strict=False)
        return cls(tokens, values, tops, dict(itertools.islice(places, 1 - start, None)))

    def labels(self, request: SequenceRequest, host: Host) -> tuple[Position, ...]:
        """The positions of the scored demonstrations."""
        return tuple(self.shown(*place, host) for place in _places(request))

    def shown(self, place: int, label: str, host: Host) -> Position:
        """The position where `label` stands."""
        first = self._edge(place, f"before the label {label!r}", host)
        after = self._edge(place + len(label), f"after the label {label!r}", host)
        parts = [nats(value, host) for value in self.logprobs[first:after]]
        begun = Candidate(self.tokens[first], parts[0])
        others = self._others(first, begun, host)
        known = checked([*others, begun], host)
        # Hosts list the shown token whatever its rank, so it says nothing of the tokens that are not listed.
        floor = floor_nats([c for c in known if c is not begun], beside=begun)
        if begun.text == label or min(parts) <= SENTINEL_NATS:
            return Position(known, floor)
        whole = [*(c for c in known if c.text != label), Candidate(label, sum(parts))]
        return Position(tuple(sorted(whole, key=lambda c: -c.logprob_nats)), floor)

    def _others(self, k: int, begun: Candidate, host: Host) -> list[Candidate]:
        """What is listed at token k beside the token itself, which must be listed with its own log-prob or lie below
        the whole list. Hosts that are off by one give each token the numbers of its neighbour."""
        entries = legacy_entries(self.tops[k], host)
        others = [c for c in entries if c.text != begun.text and c.logprob_nats > SENTINEL_NATS]
        if not others:
            raise host.incapable(
                f"the echo lists nothing beside {begun.text!r} where it stands, so other labels cannot be compared "
                "with it: use --no-echo"
            )
        own = [c.logprob_nats for c in entries if c.text == begun.text]
        least = min(c.logprob_nats for c in others)
        apart = abs(own[0] - begun.logprob_nats) if own else begun.logprob_nats - least
        if apart > AGREEMENT_NATS:
            raise host.incapable(
                f"the echo contradicts itself: {begun.text!r} has {begun.logprob_nats:.3f} nats, but the list of the "
                f"same place {f'gives it {own[0]:.3f}' if own else f'goes down to {least:.3f} without it'}: the "
                "numbers are those of another token; use --no-echo"
            )
        return others

    def _edge(self, place: int, where: str, host: Host) -> int:
        """The token that begins at an edge of a label."""
        token = self.begins.get(place)
        if token is None:
            raise host.incapable(
                f"a token reaches over the edge {where}, so the label has no probability of its own: end the template "
                "differently (no trailing blank) or change the label"
            )
        if token and not self.tokens[token - 1]:
            raise host.incapable(f"a token without text stands {where}: nobody can tell to which side it belongs")
        return token

    def next(self, place: int, host: Host) -> Position:
        """The position after the prompt, where the host has generated a token."""
        generated = self.begins.get(place)
        if generated is None:
            raise host.incapable("the echo ends with the prompt: the log-probs of the token after it are missing")
        listed = checked(legacy_entries(self.tops[generated], host), host)
        return Position(listed, floor_nats(listed))


def _columns(logprobs: Json, host: Host) -> tuple[list[Json], list[Json], list[Json]]:
    """Tokens, their log-probs and their lists of candidates, all of one length."""
    if not isinstance(logprobs, dict):
        raise host.incapable("the reply has no log-probabilities: this model or host does not give them with echo")
    if isinstance(logprobs.get("content"), list):
        raise ignored(host)  # the chat shape: llama.cpp's server and others that speak of generated tokens only
    tokens, values, tops = (logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(tokens, list) or not isinstance(values, list) or not isinstance(tops, list):
        raise host.incapable(
            "the echo lacks tokens, token_logprobs or a list of top_logprobs for each token, so labels cannot be "
            "compared in it: use --no-echo"
        )
    if not len(tokens) == len(values) == len(tops):
        raise host.incapable(f"the echo has {len(tokens)} tokens, {len(values)} log-probs and {len(tops)} lists")
    return tokens, values, tops


def _start(tokens: list[str], prompt: str, host: Host) -> int:
    """The token that begins the prompt: the first, or the second after one that the host puts before every text."""
    texts = ["".join(tokens[start:]) for start in range(2)]
    for start, text in enumerate(texts):
        if text.startswith(prompt):
            return start
    if len(tokens) < 2:  # one was to be generated
        raise ignored(host)
    same, text = max((_common(text, prompt), text) for text in texts)
    raise host.incapable(
        f"the {len(tokens)} echoed tokens do not spell the prompt: after {same} of {len(prompt)} characters they have "
        f"{text[same : same + SHOWN_CHARS]!r} where it has {prompt[same : same + SHOWN_CHARS]!r}; the host ignores "
        "echo, or writes tokens as ids or single bytes: use --no-echo"
    )


def _common(text: str, prompt: str) -> int:
    """Number of characters with which both begin."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, prompt, strict=False)))
