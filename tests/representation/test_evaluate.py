"""Each measure of a representation's quality against a slow, plain second implementation."""

import itertools

import numpy as np
import pandas as pd
import pytest

from medrep import contract, storage
from medrep.vectors import concept_index, concept_pairs, quality
from medrep.vectors import concept_vectors as shared
from medrep.vocabulary import holdout
from representation import concepts, definitions, description, edges, encoder, evaluate, graph, random_vectors


def cosine(a, b):
    lengths = (sum(x * x for x in a) * sum(x * x for x in b)) ** 0.5
    return round(sum(x * y for x, y in zip(a, b, strict=True)) / lengths, 6) if lengths else 0.0


@pytest.fixture
def small():
    """40 plain concepts of 3 domains in 6 kinds, two measurements' deciles, random relationships, vectors with ties."""
    random = np.random.default_rng(0)
    plain = np.concatenate([np.arange(100, 140), np.repeat([100, 101], 10)])
    decile = np.concatenate([np.full(40, -1), np.tile(np.arange(10), 2)])
    domain = np.where(np.arange(60) < 40, np.arange(60) % 3, 0)
    pairs = {(int(a), int(b)) for a, b in random.integers(0, 40, (150, 2)) if a != b and a % 7}
    edges = [(a, b, "Is a" if (a + b) % 3 else "RxNorm has ing") for a, b in sorted(pairs)]
    edges += [(b, a, "Subsumes" if kind == "Is a" else "RxNorm ing of") for a, b, kind in edges]
    source, target, relationship = zip(*edges, strict=True)
    kinds, relationship = np.unique(relationship, return_inverse=True)
    v = concept_pairs.ConceptGraph(
        plain,
        decile,
        np.array([f"name {i}" for i in plain], dtype=object),
        domain,
        ["A", "B", "C"],
        domain * 2 + np.arange(60) % 2,
        np.array(source),
        np.array(target),
        relationship,
        kinds.tolist(),
    )
    return v, random.integers(-1, 3, (60, 4)).astype(np.float32)


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


def test_strangers_have_domain_and_class_of_whom_they_stand_for_and_no_relationship(small):
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


def test_how_many_relationships_a_concept_has_does_not_tell_it_from_a_stranger():
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


def test_held_out_pairs_are_what_a_plain_search_finds(small, monkeypatch):
    v, _ = small
    monkeypatch.setattr(holdout, "held_out_mask", lambda a, b: (a + b) % 4 == 0)
    monkeypatch.setattr(concept_pairs, "MIN_PAIRS", 1)
    text = {str(100 + i): f"name {100 + i} is a kind of name {100 + (i + 4) % 40}" for i in range(40)}
    found = concept_pairs.held_out_pairs(v, concept_pairs.make_unsaid_filter(text, v))
    every = {frozenset(p) for p in zip(v.source.tolist(), v.target.tolist(), strict=True) if (v.plain[p[0]] + v.plain[p[1]]) % 4 == 0}
    as_sets = {kind: {frozenset(p) for p in pairs.tolist()} for kind, pairs in found.items()}
    assert as_sets["all"] == every
    assert as_sets["all, unsaid"] == {p for p in every if not any(f"name {100 + a}" in text[str(100 + b)] for a, b in itertools.permutations(p))}
    assert set(found) == {"all", "all, unsaid", "Is a / Subsumes", "RxNorm has ing / RxNorm ing of"}
    assert as_sets["Is a / Subsumes"] | as_sets["RxNorm has ing / RxNorm ing of"] == every


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


def test_the_stage_writes_one_table_and_two_maps_over_all_arms(athena, monkeypatch, capsys):
    monkeypatch.setattr(holdout, "held_out_mask", lambda a, b, share=0.05: (a + b) % 2 == 1)
    monkeypatch.setattr(concept_pairs, "MIN_PAIRS", 1)
    with open(contract.data_folder("concepts") / "CONCEPT_RELATIONSHIP.csv", "a") as file:
        file.write("50\t1\tIs a\t19700101\t20991231\t\n")  # so that 1 has somebody to be mistaken for
    concepts.main(["--scope", "all"])
    for stage in (definitions, encoder, description, edges, graph, random_vectors):
        stage.main([])
    description.main(["--text", "name"])
    np.save(contract.concept_array_file("mine"), np.array(shared.open_array("random")))
    evaluate.main([])
    table = pd.read_csv(contract.quality_file())
    assert list(table.arm.unique()) == ["random", "name", "description", "medrep", "mine"]
    assert set(table.measure) == {
        "link_auroc",
        "retrieval_mrr",
        "retrieval_recall_at_10",
        "neighbours_same_domain",
        "neighbours_share_parent",
        "decile_order",
    }
    assert (table.low <= table.high).all() and table[table.measure != "decile_order"].value.between(0, 1).all()
    mine, random = (table[table.arm == arm].drop(columns="arm").reset_index(drop=True) for arm in ("mine", "random"))
    assert mine.equals(random)
    for method in ("pca", "tsne"):
        assert contract.map_file(method).read_bytes().startswith(b"\x89PNG")
    assert "unless graph.py left them out" not in capsys.readouterr().out  # edges.py did
    before = contract.quality_file().read_bytes()
    evaluate.main([])
    assert "quality.csv is up to date" in capsys.readouterr().out
    monkeypatch.setenv("MEDREP_FRESH", "1")
    evaluate.main([])
    assert contract.quality_file().read_bytes() == before
    monkeypatch.delenv("MEDREP_FRESH")
    random = np.array(shared.open_array("random"))
    storage.write_array(contract.concept_array_file("medrep"), random)  # another's over ours
    np.save(athena / "own.npy", random)
    evaluate.main(["--own", str(athena / "own.npy")])
    table = pd.read_csv(contract.quality_file())
    medrep, own = (table[table.arm == arm].drop(columns="arm").reset_index(drop=True) for arm in ("medrep", "own"))
    assert list(table.arm.unique()) == ["random", "name", "description", "medrep", "mine", "own"] and own.equals(medrep)


def test_held_out_edges_that_the_graph_has_seen_are_said(athena, capsys):
    concept_index.write_concept_index(["1", "2"])
    storage.write_array(contract.concept_array_file("medrep"), np.ones((2, 16), dtype=np.float32))
    storage.write_array(contract.edges_file(), np.array([[1, 0], [0, 1]]))
    evaluate.main([])
    assert "edges.npy has 2 held-out edges among its first 2: unless graph.py left them out" in capsys.readouterr().out


def test_what_can_not_be_judged_is_said(athena, capsys):
    with pytest.raises(SystemExit, match=r"has no concept_representation_\*.npy; representation/run.sh writes them"):
        evaluate.main([])
    concept_index.write_concept_index(["1", "3"])
    array = np.ones((2, 16), dtype=np.float32)
    storage.write_array(contract.concept_array_file("medrep"), array)
    evaluate.main([])
    assert "no held-out edge joins two concepts of the index" in capsys.readouterr().out
    array[1] = np.nan
    storage.write_array(contract.concept_array_file("medrep"), array)
    with pytest.raises(SystemExit, match="medrep.npy has NaN or infinite numbers in the vectors of 1 concepts, such as 3"):
        evaluate.main([])
    concept_index.write_concept_index(["901", "903"])
    storage.write_array(contract.concept_array_file("medrep"), np.ones((2, 16), dtype=np.float32))
    with pytest.raises(SystemExit, match="CONCEPT has none of the concepts of usedata/representation/concept_idx.csv"):
        evaluate.main([])


def test_a_decile_with_a_number_that_is_none_is_refused(athena):
    ids = ["20", *(f"20_{i}" for i in range(10))]
    concept_index.write_concept_index(ids)
    for bad in (np.nan, np.inf):
        array = np.random.default_rng(0).normal(size=(11, 16)).astype(np.float32)
        array[8, 3] = bad
        storage.write_array(contract.concept_array_file("medrep"), array)
        with pytest.raises(SystemExit, match="medrep.npy has NaN or infinite numbers in the vectors of 1 concepts, such as 20_7"):
            evaluate.main([])
        with pytest.raises(SystemExit, match="such as 20_7"):
            shared.nearest_neighbours(array[:1], "medrep", 3)
