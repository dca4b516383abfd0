"""Each measure of vectors' quality against a slow, plain second implementation."""

import itertools

import numpy as np
import pytest

from medrep.vectors import concept_pairs, quality


def cosine(a, b):
    lengths = (sum(x * x for x in a) * sum(x * x for x in b)) ** 0.5
    return round(sum(x * y for x, y in zip(a, b, strict=True)) / lengths, 6) if lengths else 0.0


def test_auroc_agrees_with_counting_pairs(small):
    random = np.random.default_rng(0)
    positive, negative = random.integers(0, 6, 9) / 6, random.integers(0, 5, (9, 3)) / 6
    weights = np.concatenate([np.ones((1, 9)), random.integers(0, 3, (4, 9))])
    for found, weight in zip(quality.weighted_aurocs(positive, negative, weights), weights.tolist(), strict=True):
        won = sum(
            w * u * ((p > n) + (p == n) / 2)
            for p, w in zip(positive, weight, strict=True)
            for row, u in zip(negative, weight, strict=True)
            for n in row
        )
        assert found == pytest.approx(won / (sum(weight) ** 2 * 3))


def test_how_many_relationships_a_concept_has_does_not_tell_it_from_a_negative():
    """Two classes, hubs in both, pairs by chance: a score of degrees or of classes alone is a coin's."""
    random, n = np.random.default_rng(0), 2000
    weight = random.pareto(1.5, n) + 0.1
    ends = random.choice(n, (12_000, 2), p=weight / weight.sum())
    pairs = np.unique(np.sort(ends[ends[:, 0] % 2 != ends[:, 1] % 2], axis=1), axis=0)  # always one of each class
    kind = np.arange(n) % 2
    v = concept_pairs.ConceptGraph(
        np.arange(n),
        np.full(n, -1),
        np.array(["x"] * n, dtype=object),
        np.zeros(n, int),
        ["A"],
        kind,
        pairs[:, 0],
        pairs[:, 1],
        np.zeros(len(pairs), int),
        ["Is a"],
    )
    degree = np.bincount(pairs.ravel(), minlength=n)
    anchors, negatives = concept_pairs.draw_negatives(v, pairs)
    whole = (negatives >= 0).all(axis=1)
    assert whole.mean() > 0.9

    def auroc(score):
        positive = score(pairs[:, 0], pairs[:, 1])[whole]
        return quality.weighted_aurocs(positive, score(anchors[:, None], negatives)[whole], np.ones((1, len(positive))))[0]

    assert auroc(lambda a, b: (kind[a] != kind[b]).astype(float)) == 0.5
    assert abs(auroc(lambda a, b: degree[a] * degree[b]) - 0.5) < 0.06
    even = random.integers(0, n, negatives.shape)  # as it would be with negatives drawn evenly
    positive = (degree[pairs[:, 0]] * degree[pairs[:, 1]]).astype(float)
    assert quality.weighted_aurocs(positive, (degree[anchors][:, None] * degree[even]).astype(float), np.ones((1, len(pairs))))[0] > 0.7


def test_ranks_agree_with_sorting_one_query_at_a_time(small):
    v, array = small
    edges = np.array(
        [(a, b) for a, b, kind in zip(v.source.tolist(), v.target.tolist(), v.relationship, strict=True) if v.relationships[kind] == "Is a"]
    )
    assert np.array_equal(v.pairs_related_by(("Is a", "RxNorm is a")), edges)
    answers = {}
    for a, b in edges.tolist():
        answers.setdefault(a, set()).add(b)
    for kind in range(6):
        mine = edges[v.kind[edges[:, 1]] == kind]
        candidates = np.flatnonzero(v.eligible & (v.kind == kind))
        found = quality.rank_candidates(array, mine[:, 0], mine[:, 1], candidates, answers)
        for (query, truth), rank in zip(mine.tolist(), found, strict=True):
            own = cosine(array[query].tolist(), array[truth].tolist())
            others = [cosine(array[query].tolist(), array[c].tolist()) for c in candidates if c not in {query, *answers[query]}]
            assert rank == 1 + sum(o > own for o in others) + sum(o == own for o in others) / 2


def test_neighbourhoods_agree_with_a_plain_search(small):
    v, array = small
    rows = {r["measure"]: r for r in quality.neighbour_rows("x", array, v)}
    parents = {i: set() for i in range(40)}
    for a, b, kind in zip(v.source.tolist(), v.target.tolist(), v.relationship, strict=True):
        if v.relationships[kind] == "Is a":
            parents[a].add(b)
    same, siblings = [], []
    for q in range(40):
        near = sorted((c for c in range(40) if c != q), key=lambda c: (-cosine(array[q].tolist(), array[c].tolist()), c))[:10]
        same.append(np.mean([v.domain[c] == v.domain[q] for c in near]))
        if any(sum(p in parents[c] for c in range(40)) > 1 for p in parents[q]):
            siblings.append(np.mean([bool(parents[c] & parents[q]) for c in near]))
    assert rows["neighbours_same_domain"]["value"] == pytest.approx(np.mean(same), abs=1e-4)
    assert rows["neighbours_share_parent"]["value"] == pytest.approx(np.mean(siblings), abs=1e-4)
    assert rows["neighbours_share_parent"]["n"] == len(siblings) < 40


def test_the_order_of_deciles_agrees_with_plain_ranks(small):
    v, array = small

    def slow(vectors):
        def ranked(values):
            return [sum(x < y for x in values) + (sum(x == y for x in values) + 1) / 2 for y in values]

        pairs = list(itertools.combinations(range(10), 2))
        a = ranked([j - i for i, j in pairs])
        b = ranked([-cosine(vectors[i].tolist(), vectors[j].tolist()) for i, j in pairs])
        return np.corrcoef(a, b)[0, 1]

    vectors = array[40:].reshape(2, 10, 4)
    assert quality.decile_orders(vectors) == pytest.approx([slow(x) for x in vectors])
    line = np.stack([np.cos(np.arange(10) / 9), np.sin(np.arange(10) / 9)], axis=1)[None]
    assert quality.decile_orders(line) == pytest.approx([1]) and quality.decile_orders(np.ones((1, 10, 3))) == [0]
    (row,) = quality.decile_rows("x", array, v)
    assert row["n"] == 2 and row["value"] == pytest.approx(np.mean([slow(x) for x in vectors]), abs=1e-4)


def test_intervals_are_a_bootstraps(small):
    values = np.random.default_rng(0).normal(size=400)
    (row,) = quality.mean_row("x", "measure", "kind", values)
    random = np.random.default_rng(1)
    draws = [values[random.integers(0, 400, 400)].mean() for _ in range(2000)]
    assert row["value"] == round(values.mean(), 4) and [row["low"], row["high"]] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.02)
    assert quality.mean_row("x", "measure", "kind", np.zeros(0)) == []
