"""Which counts are hidden, and that nobody can compute them."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.report import disclosure


def test_a_bar_shows_no_small_part():
    """All that a reader knows of 526 = 489 + at least 11 + fewer than 11, or of 526 = at least 11 + fewer than 11, is what is drawn."""
    for total, of in ((526, lambda few: (489, 37 - few, few)), (526, lambda few: (526 - few, few)), (9000, lambda few: (6000, 3000 - few, few))):
        drawn = set()
        for few in range(1, 11):
            counts = disclosure.CountRegistry(11)
            whole, parts = counts("whole", total), [counts(f"part {i}", n) for i, n in enumerate(of(few))]
            counts.add_sum(whole, parts)
            counts.protect()
            drawn.add(tuple(disclosure.shares(parts, whole)))
            assert sum(disclosure.shares(parts, whole)) == pytest.approx(1)
        assert len(drawn) == 1
    counts = disclosure.CountRegistry(11)
    assert disclosure.shares([counts("a", 30), counts("b", 10)], counts("whole", 40)) == [0.75, 0]
    assert disclosure.shares([counts("c", 0)], counts("none", 0)) == [0]


def test_a_lone_small_count_takes_the_smallest_fit_neighbour_with_it():
    counts = disclosure.CountRegistry(11)
    whole, most, some, few = counts("all", 900), counts("most", 800), counts("some", 96), counts("few", 4)
    counts.add_sum(whole, [most, some, few])
    counts.protect()
    assert [str(count) for count in (whole, most, some, few)] == ["900", "800", "≥11", "<11"]
    assert [str(disclosure.Share(part, whole)) for part in (few, some, most)] == ["<1.22%", "", "88.9%"]


def test_a_rest_that_is_small_is_hidden_though_it_is_shown_nowhere():
    counts = disclosure.CountRegistry(11)
    persons, with_records = counts("persons", 400), counts("with records", 396)
    counts.add_sum(persons, [with_records])
    counts.protect()
    assert (str(persons), str(with_records)) == ("400", "≥11")


def test_hiding_goes_on_through_sums_that_share_a_count():
    counts = disclosure.CountRegistry(11)
    a, b, c, d, e = (counts(name, n) for name, n in (("a", 100), ("b", 95), ("c", 5), ("d", 60), ("e", 35)))
    counts.add_sum(a, [b, c])  # c is small, so b is withheld
    counts.add_sum(b, [d, e])  # b is d + e, so one of them is, too
    counts.protect()
    assert [str(x) for x in (a, b, c, d, e)] == ["100", "≥11", "<11", "60", "≥11"]


@settings(deadline=None, max_examples=300)
@given(parts=st.lists(st.integers(0, 40), min_size=1, max_size=4), left=st.integers(0, 40))
def test_whoever_adds_up_what_is_shown_does_not_learn_a_small_count(parts, left):
    """All that a reader can think of, tried one by one: a small count may still be at least five numbers."""
    counts = disclosure.CountRegistry(11)
    whole, some = counts("whole", sum(parts) + left), [counts(f"part {i}", n) for i, n in enumerate(parts)]
    counts.add_sum(whole, some)
    rest = counts.sums[0][-1]
    counts.protect()
    small = [n for n in (*some, rest) if n.small]
    withheld = [n for n in (*some, rest) if n.withheld]
    if whole.small or not small:
        return
    assert sum(n.hidden for n in (whole, *some)) >= 1
    known = whole.value - sum(n.value for n in (*some, rest) if not n.hidden)  # what the hidden ones come to
    possible = [
        guess
        for guess in itertools.product(range(1, 11), repeat=len(small))
        if whole.hidden or (known - sum(guess) >= 11 * len(withheld) if withheld else known == sum(guess))
    ]
    # of whom there are 1 to 10 in all, or nearly 20 in two groups, a reader knows as much as anyone can be kept from
    assert all(len({guess[i] for guess in possible}) >= 5 for i in range(len(small)))


def test_what_is_left_is_told_in_words_where_it_would_tell_a_hidden_count():
    counts = disclosure.CountRegistry(11)
    whole, withheld = counts("whole", 1000), counts("withheld", 40)
    withheld.withheld = True
    told = {n: disclosure.describe_rest(counts("part", n), whole) for n in (0, 7, 11, 250)}
    assert told == {0: "all", 7: "nearly all", 11: "98.9%", 250: "75.0%"} and disclosure.describe_rest(withheld, whole) == "most"
    assert disclosure.describe_rest(counts("part", 2), counts("few", 5)) == "nearly all"


def test_zero_is_shown():
    counts = disclosure.CountRegistry(11)
    assert str(counts("none", 0)) == "0" and str(counts("mean", 12, minimum=3)) == "<11"
