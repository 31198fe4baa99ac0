"""Frozen values that cross layers. Log-probabilities are natural logarithms (nats) and at most 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, TypeAlias, TypeVar

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


# --- data -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Example:
    """One row to label. Holds inputs only: gold labels never live here."""

    id: str
    fields: Mapping[str, str]
    group: str | None = None
    key: str | None = None
    line: int = 0
    """Line of the source file (1-based); 0 when the row came from memory."""


RelationKind = Literal["exactly_one", "at_most_one", "equivalent", "implies", "asymmetric", "transitive", "and", "or"]


@dataclass(frozen=True, slots=True)
class Relation:
    """A logical rule between the labels of some examples, taken from the inputs.

    An example *holds* when its label is `positive` (an index into the task's labels). With h1..hk for "member k holds":

    - `exactly_one`, `at_most_one`: how many members hold.
    - `equivalent`: all members have the same label (of any number of labels; `positive` plays no part).
    - `asymmetric` (two members): one comparison seen from both sides; exactly one of them holds.
    - `implies` (a, b): a holds => b holds.
    - `transitive` (ab, bc, ac): ab and bc hold => ac holds.
    - `and`, `or` (parts..., whole): the whole holds exactly when all (any) of its parts hold.
    In every directed kind the conclusion stands last.
    """

    kind: RelationKind
    members: tuple[int, ...]
    """Indices of examples."""
    positive: int = 1
    price: float | None = None
    """None: may never be broken. Otherwise: what breaking it costs, in nats."""
    source: str = ""
    """Where the rule came from, for people: a file and line, or the name of a task's rule."""


@dataclass(frozen=True, slots=True)
class Label:
    """A value that an example can take, and how it is written in a prompt."""

    name: str
    text: str
    """Canonical spelling as a continuation of the prompt: begins with its space, for example `" True"`."""
    variants: tuple[str, ...] = ()
    """Other spellings whose probability counts as this label's when they come as one token, such as `"true"`."""


# --- asking a model ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prompt:
    """A few-shot prompt in parts, so that a provider can tokenise, cache or send it as chat turns.

    Demonstration and query texts end where the label starts, without a trailing space; the label's own text
    begins with the space. Parts begin with the separator, so that they tokenise alone as they do in the whole.
    """

    query: str
    demonstrations: tuple[tuple[str, str], ...] = ()
    """(text, label text) pairs."""
    preamble: str = ""
    separator: str = "\n\n"

    @property
    def chunks(self) -> tuple[str, ...]:
        """The prompt cut at label boundaries; joined they are `text`."""
        parts: list[str] = []
        lead = self.preamble + self.separator if self.preamble else ""
        for text, label in self.demonstrations:
            parts += (lead + text, label)
            lead = self.separator
        return (*parts, lead + self.query)

    @property
    def text(self) -> str:
        """The whole prompt as one string, for completion routes."""
        return "".join(self.chunks)


R_co = TypeVar("R_co", covariant=True)


class Request(Generic[R_co]):
    """Something a provider can be asked; the parameter is the type of its reply."""

    __slots__ = ()
    kind: ClassVar[str]
    paid: ClassVar[bool]
    """Whether the host charges for it (and the meter counts it)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A continuation of a prompt with its log-probability under the model (before any sampling)."""

    text: str
    logprob_nats: float
    token_id: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What one reply cost. `prompt_tokens` includes `cached_tokens`. None: the host did not say."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class NextTokenReply:
    """The likeliest continuations, best first, plus every wanted one that the host could score exactly."""

    candidates: tuple[Candidate, ...]
    """No sentinels, no NaN. Several candidates may have the same text (other tokens)."""
    floor_nats: float | None
    """Upper bound on the log-probability of any single token that is not listed; None: the list is complete."""
    usage: Usage
    model: str
    """The model as the host names it in its reply."""


@dataclass(frozen=True, slots=True)
class NextTokenRequest(Request[NextTokenReply]):
    """How likely are the continuations of a prompt?"""

    prompt: Prompt
    wanted: tuple[str, ...]
    """Continuations whose log-probability is needed. A host that can score them exactly (all their tokens) must."""
    continuation: str = ""
    """Text of a label begun but not finished, which follows the prompt directly."""
    affinity: int | None = field(default=None, compare=False)
    """Requests with the same number continue one another, so a host that can should serve them from one prefix cache.
    Changes where they are answered, never what, so it is no part of the cache key."""
    kind: ClassVar[str] = "next_token"
    paid: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Position:
    """What the model expected at a place where a label stands. Fields as in `NextTokenReply`."""

    candidates: tuple[Candidate, ...]
    floor_nats: float | None


@dataclass(frozen=True, slots=True)
class SequenceReply:
    """One position for each scored demonstration, in order, then one for the query."""

    positions: tuple[Position, ...]
    usage: Usage
    model: str

    def at(self, k: int) -> NextTokenReply:
        """Position `k` as the reply to the question that it answers; its cost stands in the whole reply only."""
        return NextTokenReply(self.positions[k].candidates, self.positions[k].floor_nats, Usage(), self.model)


@dataclass(frozen=True, slots=True)
class SequenceRequest(Request[SequenceReply]):
    """How likely are the labels at every label position of a prompt, each given all that stands before it?

    What a host's prompt log-probs (echo) answer in one request. At the query's position nothing stands yet.
    """

    prompt: Prompt
    wanted: tuple[str, ...]
    first: int = 0
    """Demonstrations before this one are context only."""
    kind: ClassVar[str] = "sequence"
    paid: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ChoiceReply:
    """What the host chose among the labels."""

    shares: tuple[float, ...]
    """One per label in the order offered, summing to 1: a single 1 where the host gave one answer, its own
    probabilities where it states them. Empty: the answer names none of the labels, which is an answer too; it was
    paid for, and drawing it anew until it fits would favour what is easily said."""
    usage: Usage
    model: str
    said: str = ""
    """For people: what was answered in place of a label, where `shares` is empty."""


@dataclass(frozen=True, slots=True)
class ChoiceRequest(Request[ChoiceReply]):
    """Which of these labels? What can be asked of a host that tells no log-probabilities."""

    prompt: Prompt
    labels: tuple[str, ...]
    """Texts of all labels, in the order in which they are offered."""
    draw: int = 0
    """Each number is another answer to the same question, asked and cached on its own."""
    kind: ClassVar[str] = "choice"
    paid: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class TokenCountReply:
    """Number of tokens of each text."""

    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenCountRequest(Request[TokenCountReply]):
    """How many tokens does each text have for this model? (Special tokens are not parsed.)"""

    texts: tuple[str, ...]
    kind: ClassVar[str] = "token_count"
    paid: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do for one model, as declared by its adapter."""

    exact_labels: bool
    """Every wanted continuation comes back with its own log-probability, whatever its rank."""
    max_top_k: int | None
    """Largest number of candidates a request can return; None: no limit is known."""
    continues_label: bool
    """A prompt may end inside a label (completion routes can, chat routes cannot)."""
    counts_tokens: bool
    plain_text_tokens: bool
    """Special tokens written in the data are tokenised as plain text."""
    context_tokens: int | None
    """Longest prompt in tokens; None: unknown."""
    prompt_logprobs: bool = False
    """Answers `SequenceRequest`: all labels of a sequence in one request."""
    choices: Literal["votes", "probabilities"] | None = None
    """How it answers `ChoiceRequest`: with one label, or with the probability of each. Only for a provider without
    log-probabilities: None where `NextTokenRequest` is answered."""
    prefix_slots: int | None = None
    """How many prompts' beginnings the host keeps evaluated at a time; None: no limit is known."""
    thought_tokens: int = 0
    """Most that a model which cannot do without thinking may write before its answer to a `ChoiceRequest`."""


# --- label scores -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Log-probability of each label of one example in one context, renormalised over the labels."""

    logprobs_nats: tuple[float, ...]
    """One per label, in the task's order; exp of them sums to 1."""
    mass: float
    """Share of the model's probability that the labels held before renormalising, 0..1."""
    bounded: tuple[bool, ...]
    """True where the label was outside what the host listed, so that its value is an upper bound."""
    kind: Literal["logprob", "sampled", "stated"] = "logprob"
    """`sampled`: from counted answers, smoothed. `stated`: from probabilities that the host calls its own. Kinds are
    never mixed in one run."""
