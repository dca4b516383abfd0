"""Held-out pairs and their negatives, against plain searches."""

import itertools

import numpy as np

from medrep.vectors import concept_pairs
from medrep.vocabulary import holdout


def test_negatives_have_domain_and_class_of_whom_they_stand_for_and_no_relationship(small):
    v, _ = small
    pairs = np.unique(np.sort(np.column_stack([v.source, v.target]), axis=1), axis=0)
    anchors, negatives = concept_pairs.draw_negatives(v, pairs)
    related = {*zip(v.source.tolist(), v.target.tolist(), strict=True)}
    found = negatives[negatives >= 0]
    assert len(found) > 0.95 * negatives.size and (v.decile[found] < 0).all()
    for pair, one, others in zip(pairs.tolist(), anchors.tolist(), negatives.tolist(), strict=True):
        assert one in pair
        gone = pair[1] if one == pair[0] else pair[0]
        assert all(v.kind[o] == v.kind[gone] and o != one and (one, o) not in related for o in others if o >= 0)
    again = concept_pairs.draw_negatives(v, pairs)
    assert np.array_equal(anchors, again[0]) and np.array_equal(negatives, again[1]) and 0.3 < (anchors == pairs[:, 0]).mean() < 0.7


def test_held_out_pairs_are_what_a_plain_search_finds(small, monkeypatch):
    v, _ = small
    monkeypatch.setattr(holdout, "held_out_mask", lambda a, b: (a + b) % 4 == 0)
    monkeypatch.setattr(concept_pairs, "MIN_PAIRS", 1)
    text = {str(100 + i): f"name {100 + i} is a kind of name {100 + (i + 4) % 40}" for i in range(40)}
    found = concept_pairs.held_out_pairs(v, concept_pairs.make_unmentioned_pair_filter(text, v))
    every = {frozenset(p) for p in zip(v.source.tolist(), v.target.tolist(), strict=True) if (v.plain[p[0]] + v.plain[p[1]]) % 4 == 0}
    as_sets = {kind: {frozenset(p) for p in pairs.tolist()} for kind, pairs in found.items()}
    assert as_sets["all"] == every
    assert as_sets["all, unsaid"] == {p for p in every if not any(f"name {100 + a}" in text[str(100 + b)] for a, b in itertools.permutations(p))}
    assert set(found) == {"all", "all, unsaid", "Is a / Subsumes", "RxNorm has ing / RxNorm ing of"}
    assert as_sets["Is a / Subsumes"] | as_sets["RxNorm has ing / RxNorm ing of"] == every
