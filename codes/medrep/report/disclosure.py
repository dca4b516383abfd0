"""Counts that a page may show: what is of a few persons is hidden, and so is what it could be computed from.

    counts = disclosure.CountRegistry(min_count=11)
    visits, admissions, others = counts("mimic visits", 900), counts("mimic admissions", 896), counts("mimic other", 4)
    counts.add_sum(visits, [admissions, others])
    counts.protect()                         # once all are registered
    str(visits), str(others)                 # "900", "<11"

    900 visits = 896 admissions + 4 others       4 is small, and 900 - 896 would tell it
    900        = withheld       + <11            so the smallest of the others is withheld, too: it is shown as ">=11"

The rule is that of cell suppression in public tables (CMS cell size policy: 1 to 10 are never shown, 0 is). Each sum is protected by itself, in
turn until none changes; whoever combines several sums by algebra may still narrow a hidden count down.
"""

import math
from collections.abc import Callable, Sequence


class SuppressibleCount:
    """A number of persons, or of what persons have: shown, small, or withheld because it would tell a small one."""

    def __init__(self, value: float, minimum: float, min_count: int):
        """`minimum`: the least of the numbers that `value` is the mean of."""
        self.value, self.min_count, self.withheld = value, min_count, False
        self.small = 0 < minimum < min_count or 0 < value < min_count

    @property
    def hidden(self) -> bool:
        return self.small or self.withheld

    @property
    def sort_key(self) -> float:
        """The same for all small and for all withheld counts, or their places would tell them."""
        return 1 if self.small else self.min_count if self.withheld else round(self.value)

    def __str__(self) -> str:
        return f"<{self.min_count}" if self.small else f"≥{self.min_count}" if self.withheld else f"{self.value:,.0f}"

    def __bool__(self) -> bool:
        return self.value > 0


class CountRegistry:
    """All counts of a page, and the sums that a reader can check them by."""

    def __init__(self, min_count: int):
        self.min_count = min_count
        self.registered: dict[tuple[str, float], SuppressibleCount] = {}
        self.sums: list[list[SuppressibleCount]] = []
        """Each is the whole, its parts, and the rest that is shown nowhere."""

    def __call__(self, name: str, value: float, minimum: float | None = None) -> SuppressibleCount:
        """The count of this name and value: one object, wherever on the page it stands."""
        return self.registered.setdefault((name, value), SuppressibleCount(value, value if minimum is None else minimum, self.min_count))

    def for_hospital(self, hospital: str) -> Callable[..., SuppressibleCount]:
        """The same, of one hospital's counts; a value of None is 0."""
        return lambda name, value, minimum=None: self(f"{hospital} {name}", value or 0, minimum)

    def find(self, hospital: str, name: str, value: float) -> SuppressibleCount | None:
        """The hospital's count of this name and value, if a section has shown it before."""
        return self.registered.get((f"{hospital} {name}", value))

    def add_sum(self, whole: SuppressibleCount, parts: Sequence[SuppressibleCount]):
        """Register that `parts` belong to `whole`; a reader can compute what is left of it."""
        rest = whole.value - sum(part.value for part in parts)
        self.sums.append([whole, *parts, SuppressibleCount(rest, rest, self.min_count)])

    def protect(self):
        """Withhold counts until no sum tells a small one."""
        changed = True
        while changed:
            changed = False
            for terms in self.sums:
                if not reveals_hidden(terms):
                    continue
                shown = [term for term in terms if not term.hidden and term.value > 0]
                # not the rest, which stands nowhere; the smallest that leaves room for ten cases; the whole only if there is no other
                if others := [term for term in shown if term not in (terms[0], terms[-1])] or [term for term in shown if term is terms[0]]:
                    min(others, key=lambda term: (term.value < 2 * self.min_count, term.value)).withheld = changed = True


def reveals_hidden(terms: Sequence[SuppressibleCount]) -> bool:
    """Whether the sum terms[0] = terms[1] + terms[2] + ... leaves too few values possible for a hidden term, when all shown ones are known.

    Too few: for a small term fewer than half of those that "<11" leaves it, for a withheld one a single value.
    """
    # the hidden terms, the whole with a minus, have a known total
    hidden = [(term, 1 if i else -1) for i, term in enumerate(terms) if term.hidden]
    total = sum(sign * term.value for term, sign in hidden)
    bounds = [
        sorted(sign * bound for bound in ((1, max(term.min_count - 1, term.value)) if term.small else (term.min_count, math.inf)))
        for term, sign in hidden
    ]
    for i, (term, _) in enumerate(hidden):
        low = max(bounds[i][0], total - sum(high for j, (_, high) in enumerate(bounds) if j != i))
        high = min(bounds[i][1], total - sum(low for j, (low, _) in enumerate(bounds) if j != i))
        if high - low < (term.min_count // 2 - 1 if term.small else 1):
            return True
    return False


def shares(parts: Sequence[SuppressibleCount], whole: SuppressibleCount) -> list[float]:
    """The widths, of 1, by which a whole and all its parts are drawn once the counts are protected: small parts have none.

    Withheld parts are rounded to a coarse step, so that a small count cannot change the drawing. The last fills the rest, unless the
    whole is hidden, too.
    """
    if not whole.value:
        return [0.0] * len(parts)
    step = max(0.01, 2 * whole.min_count / whole.value)
    withheld = [i for i, part in enumerate(parts) if not part.small and (part.withheld or whole.hidden)]
    drawn_shares = [0.0 if part.small else part.value / whole.value for part in parts]
    for i in withheld:
        drawn_shares[i] = round(drawn_shares[i] / step) * step
    if withheld and not whole.hidden:
        drawn_shares[withheld[-1]] = 1 - sum(share for i, share in enumerate(drawn_shares) if i != withheld[-1])
    return drawn_shares


class Share:
    """The share of `part` in `whole`, written in percent once the counts are protected: of a small part the bound, of a withheld one nothing."""

    def __init__(self, part: SuppressibleCount, whole: SuppressibleCount):
        self.part, self.whole = part, whole

    @property
    def sort_key(self) -> float:
        return 0 if self.part.hidden or self.whole.hidden or not self.whole.value else self.part.value / self.whole.value

    def __str__(self) -> str:
        if not self.whole.value or self.whole.hidden or self.part.withheld and not self.part.small:
            return ""
        return f"<{self.part.min_count / self.whole.value:.2%}" if self.part.small else f"{self.part.value / self.whole.value:.1%}"


def describe_rest(part: SuppressibleCount, whole: SuppressibleCount) -> str:
    """The share of `whole` that is not `part`, written once the counts are protected: in percent, or in words where that would tell a hidden count."""
    if not part.value:
        return "all"
    if part.hidden or whole.hidden:
        return "nearly all" if part.small else "most"
    return f"{1 - part.value / whole.value:.1%}"
