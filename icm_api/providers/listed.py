"""Lists of likely tokens as hosts report them: two shapes to read, and a dozen ways to be useless.

A number that passes here may become a label, so everything doubtful is refused with a CapabilityError.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from operator import attrgetter

from icm_api.providers.http import Host
from icm_api.types import Candidate, Json

SENTINEL_NATS = -999.0
"""At or below this a log-probability is a stand-in for "not listed": OpenAI and vLLM write -9999, TabbyAPI -1000,
llama.cpp the lowest float. No real token comes near it."""
HUGE = sys.float_info.max
"""JSON has whole numbers beyond it, which Python cannot turn into a float."""
POSITIVE_TOLERANCE_NATS = 1e-6
MASS_TOLERANCE = 5e-3
"""Servers sum a softmax in single precision: over a vocabulary of 262,144 a whole list came to 1.0012."""
ROUNDING = 1e-6
"""Rounding of a host's numbers may hide this much probability outside its list."""


def top_candidates(logprobs: Json, host: Host) -> tuple[Candidate, ...]:
    """The candidates for the first generated token, best first, from a choice's `logprobs` object.

    Reads OpenAI's legacy shape `{tokens, token_logprobs, top_logprobs: [{text: logprob}]}` and the chat shape
    `{content: [{token, logprob, top_logprobs: [{token, logprob}]}]}`: hosts use either on either route.
    """
    if not isinstance(logprobs, dict):
        raise host.incapable(
            "the reply has no log-probabilities: this model or host does not give them on this route; "
            "try the other route, turn reasoning off, or use another model"
        )
    content = logprobs.get("content")
    if isinstance(content, list):
        return chat_candidates(content, host)
    return _legacy_candidates(logprobs.get("top_logprobs"), host)


def chat_candidates(content: Sequence[Json], host: Host) -> tuple[Candidate, ...]:
    """From chat-shaped positions (llama.cpp's native `completion_probabilities` has the same shape)."""
    first = content[0] if content else None
    entries = first.get("top_logprobs") if isinstance(first, dict) else None
    if not isinstance(entries, list):
        raise _no_list(host)
    return checked([_chat_entry(entry, host) for entry in entries], host)


def legacy_entries(position: Json, host: Host) -> list[Candidate]:
    """The `{text: logprob}` of one position, as it stands there."""
    if not isinstance(position, dict):
        raise _no_list(host)
    return [Candidate(text, nats(value, host)) for text, value in position.items()]


def floor_nats(candidates: Sequence[Candidate], beside: Candidate | None = None) -> float:
    """Upper bound on the log-probability of a token outside a list (best first).

    It is no likelier than the last of the list, and cannot hold more than what the list leaves over. A list that holds
    more than all shows how far the host's numbers are off: so much may be outside it. `beside`: a token known whatever
    its rank; it holds its share, but one that is not listed may be likelier.
    """
    known = [*candidates, beside] if beside else candidates
    left = abs(1 - math.fsum(math.exp(c.logprob_nats) for c in known))
    return min([math.log(left + ROUNDING), *(c.logprob_nats for c in candidates[-1:])])


def nats(value: Json, host: Host) -> float:
    """A log-probability as a host states it; stand-ins (see `SENTINEL_NATS`) pass."""
    if type(value) is float and -HUGE <= value <= 0:  # nearly all, and there are thousands in a reply
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise host.incapable(f"the reply gives {value!r} as a log-probability")
    if value > POSITIVE_TOLERANCE_NATS:
        raise host.incapable(f"the reply gives a log-probability of {min(value, HUGE):g}, but none can be above 0")
    return min(float(max(value, -HUGE)), 0.0)


def checked(candidates: Sequence[Candidate], host: Host) -> tuple[Candidate, ...]:
    """The candidates best first and without stand-ins. Refuses lists that say nothing of the model."""
    told = [c for c in candidates if c.logprob_nats > SENTINEL_NATS]
    listed = sorted(told, key=attrgetter("logprob_nats"), reverse=True)
    if not listed or listed[-1].logprob_nats == 0.0:
        raise host.incapable(
            "the listed log-probabilities are all 0 or stand-ins such as -9999, which say nothing about the model: "
            "the host reports them after sampling or not at all; use another route, model or host"
        )
    mass = math.fsum(math.exp(c.logprob_nats) for c in listed)
    if mass > 1 + MASS_TOLERANCE:
        raise host.incapable(f"the listed candidates hold {mass:.4f} of the probability, more than all of it")
    return tuple(listed)


def as_continuation(candidate: Candidate) -> Candidate:
    """A chat answer's first token as it would continue a completion prompt: with the space that a turn leaves out."""
    text = candidate.text
    if not text or text[0].isspace():
        return candidate
    return Candidate(f" {text}", candidate.logprob_nats, candidate.token_id)


def _legacy_candidates(top_logprobs: Json, host: Host) -> tuple[Candidate, ...]:
    first = top_logprobs[0] if isinstance(top_logprobs, list) and top_logprobs else top_logprobs
    return checked(legacy_entries(first, host), host)


def _chat_entry(entry: Json, host: Host) -> Candidate:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        raise host.incapable("the reply lists a candidate without its text")
    return Candidate(str(entry["token"]), nats(entry.get("logprob"), host), _token_id(entry))


def _token_id(entry: Mapping[str, Json]) -> int | None:
    token_id = entry.get("id", entry.get("token_id"))
    return token_id if isinstance(token_id, int) and not isinstance(token_id, bool) else None


def _no_list(host: Host) -> Exception:
    return host.incapable(
        "the reply has log-probabilities but no list of candidates: this host or model does not give top log-probs; "
        "try the other route or another model"
    )
