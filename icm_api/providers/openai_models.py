"""What OpenAI's own models take, as rows: models come and go faster than routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from icm_api.errors import ConfigError

OPTION = "reasoning_effort"

Reasoning = Literal["none", "omit", "always"]
"""`none`: it must be told not to reason, or it gives no log-probs. `omit`: it does not know the parameter. `always`: it
reasons before every answer, and gives no log-probs."""


@dataclass(frozen=True, slots=True)
class Family:
    """Models whose names begin alike."""

    begins: str
    reasoning: Reasoning
    checked: str
    """Day the facts were last checked, ISO 8601."""
    source: str
    """Public page that the facts come from."""


FAMILIES: tuple[Family, ...] = (
    Family("gpt-5.", "none", "2026-11-22", "https://github.com/BerriAI/litellm/pull/38593"),
    Family("gpt-6", "none", "2026-11-22", "https://developers.openai.com/api/docs/guides/reasoning"),
    Family("gpt-5", "always", "2026-11-22", "https://community.openai.com/t/1345768"),
    Family("o1", "always", "2026-11-22", "https://developers.openai.com/api/docs/guides/reasoning"),
    Family("o3", "always", "2026-11-22", "https://developers.openai.com/api/docs/guides/reasoning"),
    Family("o4", "always", "2026-11-22", "https://developers.openai.com/api/docs/guides/reasoning"),
)
"""The first row that fits counts. A model of no row (gpt-4.1, gpt-4o) does not reason."""


def reasoning_effort(model: str, options: Mapping[str, str]) -> str | None:
    """What to send as `reasoning_effort` (None: nothing), as the option of that name says or else the model's row.

    Raises ConfigError for another option or value, and for a model that always reasons unless the option is given:
    facts about models grow old.
    """
    strange = sorted(set(options) - {OPTION})
    if strange:
        raise ConfigError(f"openai has no option {strange[0]!r}; it has {OPTION}")
    said = options.get(OPTION)
    if said is None and _reasoning(model) == "always":
        raise ConfigError(
            f"model {model!r} reasons before every answer, so it gives no log-probabilities and no short answers: use "
            "one that can do without (gpt-4.1, gpt-5.1 and later); if you know better, "
            f"say --provider-option {OPTION}=none or {OPTION}=omit"
        )
    if said not in (None, "none", "omit"):
        raise ConfigError(f"option {OPTION} must be none or omit, not {said!r}: labels are asked without reasoning")
    return "none" if (said or _reasoning(model)) == "none" else None


def _reasoning(model: str) -> Reasoning:
    base = model.removeprefix("ft:")  # a fine-tuned model is named ft:BASE:organisation::id
    return next((family.reasoning for family in FAMILIES if base.startswith(family.begins)), "omit")
