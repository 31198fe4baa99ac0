"""How many requests a second the host lets through: learned from its refusals. Clock and waiting are the caller's."""

from __future__ import annotations

BACK_OFF = 0.97
"""Share of the measured rate that is used after a refusal: a bucket of tokens fills again."""
SEARCH = 1.3
"""Growth with each step after the first refusal. That one tells little: what was too much may have been a burst."""
GROWTH = 0.01
"""After later ones, k steps without a refusal make the rate 1 + GROWTH (k + k^2) times as high: near the limit the way
is felt slowly, and one that was lifted is found soon (twice the rate after 10 steps, ten times after 30)."""
STEP_S = 1.0
STEP_REQUESTS = 8
"""A step takes a second, or the time of so many requests where that is longer, so that refusals stay rare."""
LONGEST_STEP_S = 5.0
MOST_STEPS = 100
RECOVERY = 1.5
"""Growth with each success after a drought, up to the rate that was known before it."""
LEAST_PER_S = 0.05
LEAST_EPOCH_S = 1e-3


class Pace:
    """The rate of a host that refuses what is too fast; until it first refuses, there is none.

    At a refusal the rate falls to what got through since the last one, by half at most: what gets through is what the
    host allows, whether it counts requests, tokens or connections. All times are in seconds of one clock.
    """

    def __init__(self, now_s: float) -> None:
        self._rate_per_s: float | None = None
        """After the last refusal that counted."""
        self._searching = False
        self._known_per_s = 0.0
        """What got through when last something did."""
        self._since_s = now_s
        """When the last refusal that counted came; at first, the start."""
        self._sent = self._successes = 0
        """Since then."""
        self._next_s = now_s

    def rate_per_s(self, now_s: float) -> float | None:
        """The rate now. None: any."""
        if self._rate_per_s is None:
            return None
        steps = min((now_s - self._since_s) / _step_s(self._rate_per_s), MOST_STEPS)
        return self._rate_per_s * (SEARCH**steps if self._searching else 1 + GROWTH * (steps + steps**2))

    def wait_s(self, now_s: float) -> float:
        """How long until the next request may be sent; 0 or less: it may now."""
        return self._next_s - now_s

    def sent(self, now_s: float) -> None:
        self._sent += 1
        if rate_per_s := self.rate_per_s(now_s):
            self._next_s = now_s + 1 / rate_per_s

    def succeeded(self, now_s: float) -> None:
        self._successes += 1
        before_drought = BACK_OFF * self._known_per_s
        if self._rate_per_s is not None and self._rate_per_s < before_drought:
            self._rate_per_s = min(RECOVERY * self._rate_per_s, before_drought)
            self._since_s, self._sent, self._successes = now_s, 0, 1

    def refused(self, now_s: float) -> None:
        """A request was refused that was sent after the last refusal that counted."""
        passed_s = max(now_s - self._since_s, LEAST_EPOCH_S)
        measured = self._successes / passed_s
        rate = self.rate_per_s(now_s) or self._sent / passed_s
        self._searching = self._rate_per_s is None
        self._known_per_s = measured or self._known_per_s
        self._rate_per_s = max(BACK_OFF * min(measured, rate), rate / 2, LEAST_PER_S)
        self._since_s, self._sent, self._successes = now_s, 0, 0
        self._next_s = now_s + 1 / self._rate_per_s


def _step_s(rate_per_s: float) -> float:
    return min(max(STEP_S, STEP_REQUESTS / rate_per_s), LONGEST_STEP_S)
