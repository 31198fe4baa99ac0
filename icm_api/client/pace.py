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
LATE_S = 0.05
"""How much of a late start the next ones make up for: a busy loop wakes late, and each time the rate would suffer."""
LEAST_PER_S = 0.05
LEAST_EPOCH_S = 1e-3
ENOUGH = 30
"""Outcomes that tell how much gets through; at fewer, no rate is found from them."""
DROUGHT = 4
"""Refusals after which a rate that lets nothing through is halved."""
RAMP = 1.5
"""A rate that is so many times the mean since its last fall has grown too much for the mean to stand for it."""
UNUSED = 2.0
"""A rate that is so many times what was sent is not what held the requests back."""
TELLING = 0.2
"""Least rise of the share let through that a fall must promise, if it did not come, to be called in vain."""
ALIKE = 0.3
"""Part of that rise that is chance."""
IN_VAIN = 2
HOLD_S = 60.0
"""How long the rate is left alone after so many falls in vain."""


class Pace:
    """The rate of a host that refuses what is too fast; until it first refuses, there is none.

    At a refusal the rate falls to what got through since the last fall: that is what the host allows, whether it counts
    requests, tokens or connections. A host that refuses as large a share at a much lower rate refuses for another
    reason; then the rate goes back up, so that it cannot freeze. All times are in seconds of one clock.
    """

    def __init__(self, now_s: float) -> None:
        self._rate_per_s: float | None = None
        """As it was after its last fall."""
        self._searching = False
        self._known_per_s = 0.0
        """What got through when last something did."""
        self._recovering = False
        self._since_s = now_s
        """Of the last fall; at first, the start."""
        self._passed = self._refused = 0
        """Of what was sent since then."""
        self._first_s = now_s
        """When the first of these came back."""
        self.epoch = 0
        """Goes up with each change of the rate, but its growth."""
        self._before = (0.0, 1.0)
        """(rate, share that got through) before the last fall."""
        self._in_vain = 0
        """Falls in a row that did not help."""
        self._best_per_s = 0.0
        """The rate before these."""
        self._held_until_s = now_s
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
        if rate_per_s := self.rate_per_s(now_s):
            self._next_s = max(self._next_s, now_s - LATE_S) + 1 / rate_per_s

    def passed(self, now_s: float, epoch: int) -> None:
        """A request of that epoch was let through, whatever became of it."""
        if not self._counts(now_s, epoch):
            return
        self._passed += 1
        before_drought = BACK_OFF * self._known_per_s
        if self._rate_per_s is not None and self._rate_per_s < before_drought:
            self._set(min(RECOVERY * self._rate_per_s, before_drought), now_s)
            self._recovering = True

    def refused(self, now_s: float, epoch: int) -> None:
        """A request of that epoch was refused."""
        if not self._counts(now_s, epoch):
            return
        self._refused += 1
        outcomes = self._passed + self._refused
        if now_s < self._held_until_s or outcomes < (ENOUGH if self._passed else DROUGHT):
            return
        rate, share = (outcomes - 1) / max(now_s - self._first_s, LEAST_EPOCH_S), self._passed / outcomes
        allowed = self.rate_per_s(now_s) or rate
        if self._helps_nothing(allowed, share):
            self._held_until_s = now_s + HOLD_S
            self._set(max(self._best_per_s, allowed), now_s)
            return
        self._searching = self._rate_per_s is None
        self._known_per_s = share * rate or (allowed if self._recovering else self._known_per_s)
        self._recovering = False
        used = min(allowed, rate if allowed < RAMP * rate else UNUSED * rate)
        self._set(BACK_OFF * share * used if share else allowed / 2, now_s)

    def _counts(self, now_s: float, epoch: int) -> bool:
        """What was sent before the last fall tells of a rate that is no longer used."""
        if epoch != self.epoch:
            return False
        if not self._passed + self._refused:
            self._first_s = now_s
        return True

    def _helps_nothing(self, rate: float, share: float) -> bool:
        """Whether twice in a row much the same share got through as before the last fall, where more should have."""
        rate_before, share_before = self._before
        self._before = (rate, share)
        expected = min(1.0, share_before * rate_before / rate)
        if expected < share_before + TELLING or share > share_before + ALIKE * (expected - share_before):
            self._in_vain, self._best_per_s = 0, rate
            return False
        self._in_vain += 1
        return self._in_vain >= IN_VAIN

    def _set(self, rate_per_s: float, now_s: float) -> None:
        self._rate_per_s = max(rate_per_s, LEAST_PER_S)
        self._since_s, self._passed, self._refused = now_s, 0, 0
        self.epoch += 1
        self._next_s = now_s + 1 / self._rate_per_s


def _step_s(rate_per_s: float) -> float:
    return min(max(STEP_S, STEP_REQUESTS / rate_per_s), LONGEST_STEP_S)
