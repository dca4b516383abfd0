"""Counts that a page may show: what is of a few persons is hidden, and so is what it could be computed from.

    counts = disclosure.Counts(smallest=11)
    visits, admissions, others = counts("mimic visits", 900), counts("mimic admissions", 896), counts("mimic other", 4)
    counts.add_up(visits, [admissions, others])
    counts.protect()                         # once all are known
    str(visits), str(others)                 # "900", "<11"

    900 visits = 896 admissions + 4 others       4 is small, and 900 - 896 would tell it
    900        = withheld       + <11            so the smallest of the others is withheld, too: it is shown as ">=11"

The rule is that of cell suppression in public tables (CMS cell size policy: 1 to 10 are never shown, 0 is). Each sum is protected by itself, in
turn until none changes; whoever combines several sums by algebra may still narrow a hidden count down.
"""

import math
from collections.abc import Sequence


class Count:
    """A number of persons, or of what persons have: shown, small, or withheld because it would tell a small one."""

    def __init__(self, value: float, least: float, smallest: int):
        self.value, self.smallest, self.withheld = value, smallest, False
        self.small = 0 < least < smallest or 0 < value < smallest

    @property
    def hidden(self) -> bool:
        return self.small or self.withheld

    @property
    def order(self) -> float:
        """Where it stands when a table is sorted: hidden counts tell nothing by their place."""
        return 1 if self.small else self.smallest if self.withheld else round(self.value)

    def __str__(self) -> str:
        return f"<{self.smallest}" if self.small else f"≥{self.smallest}" if self.withheld else f"{self.value:,.0f}"

    def __bool__(self) -> bool:
        return self.value > 0


class Counts:
    def __init__(self, smallest: int):
        self.smallest, self.known, self.sums = smallest, {}, []

    def __call__(self, name: str, value: float, least: float | None = None) -> Count:
        """The count of this name and value, one object wherever it stands; `least`: of several that `value` is the mean of, the least."""
        return self.known.setdefault((name, value), Count(value, value if least is None else least, self.smallest))

    def of(self, hospital: str):
        """Counts of one hospital, by name; what is None is none."""
        return lambda name, value, least=None: self(f"{hospital} {name}", value or 0, least)

    def add_up(self, whole: Count, parts: Sequence[Count]):
        """`parts` are all of `whole` that is shown: what is left is as good as shown."""
        rest = whole.value - sum(part.value for part in parts)
        self.sums.append([whole, *parts, Count(rest, rest, self.smallest)])

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
                    min(others, key=lambda term: (term.value < 2 * self.smallest, term.value)).withheld = changed = True


def reveals_hidden(terms: Sequence[Count]) -> bool:
    """Whether terms[0] = the sum of the others, all but the hidden ones known, leaves a hidden one hardly anything to be.

    Hardly anything: for a small one fewer than half of what "<11" leaves it; for a withheld one, a single number.
    """
    hidden = [(term, 1 if i else -1) for i, term in enumerate(terms) if term.hidden]  # the hidden ones, the whole taken off, come to a known sum
    total = sum(sign * term.value for term, sign in hidden)
    ends = [
        sorted(sign * end for end in ((1, max(term.smallest - 1, term.value)) if term.small else (term.smallest, math.inf))) for term, sign in hidden
    ]
    for i, (term, _) in enumerate(hidden):
        low = max(ends[i][0], total - sum(high for j, (_, high) in enumerate(ends) if j != i))
        high = min(ends[i][1], total - sum(low for j, (low, _) in enumerate(ends) if j != i))
        if high - low < (term.smallest // 2 - 1 if term.small else 1):
            return True
    return False


def shares(parts: Sequence[Count], whole: Count) -> list[float]:
    """What to draw of a whole and all its parts, once the counts are protected: small parts have no width.

    Withheld parts are drawn in steps that no small count could move, the last of them up to the end, as what is shown already tells.
    """
    if not whole.value:
        return [0.0] * len(parts)
    step = max(0.01, 2 * whole.smallest / whole.value)
    withheld = [i for i, part in enumerate(parts) if not part.small and (part.withheld or whole.hidden)]
    drawn = [0.0 if part.small else part.value / whole.value for part in parts]
    for i in withheld:
        drawn[i] = round(drawn[i] / step) * step
    if withheld and not whole.hidden:
        drawn[withheld[-1]] = 1 - sum(share for i, share in enumerate(drawn) if i != withheld[-1])
    return drawn


class Share:
    """What share of `whole` `part` is, in percent, written once the counts are protected: of a small part its bound, of withheld ones nothing."""

    def __init__(self, part: Count, whole: Count):
        self.part, self.whole = part, whole

    @property
    def order(self) -> float:
        return 0 if self.part.hidden or self.whole.hidden or not self.whole.value else self.part.value / self.whole.value

    def __str__(self) -> str:
        if not self.whole.value or self.whole.hidden or self.part.withheld and not self.part.small:
            return ""
        return f"<{self.part.smallest / self.whole.value:.2%}" if self.part.small else f"{self.part.value / self.whole.value:.1%}"
