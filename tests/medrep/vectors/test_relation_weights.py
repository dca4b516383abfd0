"""A weight for each kind of relationship: against dense and plain computations, on graphs that tell what must be learned."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from medrep.settings import GraphConfig
from medrep.vectors import graphs, relation_weights
from medrep.vectors.relation_weights import RelationWeights, TextRows, WholeGraph

NAMES = ["Is a", "Looks like", "decile of"]


def random_graph(nodes=60, pairs=90, seed=0, classes=None) -> WholeGraph:
    """Random pairs of random kinds; the last three nodes have no edge."""
    random = np.random.default_rng(seed)
    ends = np.sort(random.integers(0, nodes - 3, (pairs, 2)), axis=1)
    ends = np.unique(ends[ends[:, 0] != ends[:, 1]], axis=0).T
    return whole_graph(ends, 2 * random.integers(0, len(NAMES), ends.shape[1]), nodes, classes)


def whole_graph(pairs, kinds, nodes, classes=None) -> WholeGraph:
    """Of pairs [2, n] and the kind of each from its first row to its second."""
    edges, kinds = np.hstack([pairs, pairs[::-1]]), np.concatenate([kinds, kinds ^ 1])
    order = np.lexsort(edges)
    classes = np.zeros(nodes, np.int64) if classes is None else classes
    return WholeGraph(edges[:, order].copy(), kinds[order].astype(np.int16), classes, NAMES, fixed=["decile of"])


def dense(whole: WholeGraph, of_kind, own) -> np.ndarray:
    """A of one hop, by a loop."""
    nodes = len(whole.classes)
    degree = np.bincount(whole.edges[1], minlength=nodes) + 1
    a = np.diag(np.exp(own) / degree)
    for (source, target), kind in zip(whole.edges.T, whole.kinds, strict=True):
        factor = 1.0 if NAMES[kind // 2] == "decile of" else np.exp(of_kind[kind])
        a[target, source] = factor / np.sqrt(degree[source] * degree[target])
    return a


@pytest.fixture
def drawn_model() -> RelationWeights:
    torch.manual_seed(0)
    model = RelationWeights(hops=2, kinds=6)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_()
    return model


def dense_sums(model, whole, x) -> np.ndarray:
    share, of_kind, own = (weight.detach().numpy().astype(np.float64) for weight in (model.share, model.of_kind, model.own))
    first = dense(whole, of_kind[0], own[0]) @ x
    return share[0] * x + share[1] * first + share[2] * dense(whole, of_kind[1], own[1]) @ first


@pytest.mark.parametrize(("rows_at_once", "edges_at_once"), [(1, 1), (7, 5), (10**6, 10**6)])
def test_final_vectors_equal_the_dense_formula_in_any_chunks(drawn_model, tmp_path, monkeypatch, rows_at_once, edges_at_once):
    monkeypatch.setattr(graphs, "ROWS_PER_CHUNK", rows_at_once)
    monkeypatch.setattr(graphs, "EDGES_PER_CHUNK", edges_at_once)
    whole, x = random_graph(), np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    relation_weights.embed_nodes(drawn_model, x, whole, out := np.zeros_like(x), tmp_path)
    assert out == pytest.approx(dense_sums(drawn_model, whole, x), abs=1e-4)


def test_what_is_learned_on_is_what_the_final_vectors_are(drawn_model):
    whole, x = random_graph(), np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    nodes, part = whole.learning_part(GraphConfig())
    seen = np.ones(part.edges.shape[1], dtype=bool)
    found = drawn_model(torch.from_numpy(x), relation_weights.adjacencies(drawn_model, part, seen, torch.from_numpy(part.full_degree).float()))
    assert nodes.tolist() == list(range(60)) and found.detach().numpy() == pytest.approx(dense_sums(drawn_model, whole, x), abs=1e-4)


def test_at_the_start_it_is_the_neighbour_mean(tmp_path):
    whole, x = random_graph(), np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    out, mean = np.zeros_like(x), np.zeros_like(x)
    relation_weights.embed_nodes(RelationWeights(2, 6), x, whole, out, tmp_path)
    graphs.average_neighbours(x, whole.edges, 2, mean, tmp_path)
    assert out == pytest.approx(mean, abs=1e-5)


def test_a_question_is_among_the_answers_of_its_class_that_are_not_true():
    whole = random_graph(nodes=40, classes=np.arange(40) % 2)
    _, graph = whole.learning_part(GraphConfig())
    z = functional.normalize(torch.from_numpy(np.random.default_rng(2).normal(size=(40, 8))), dim=1)
    asked, answers = graph.edges[:, graph.pairs[0]]
    true = set(graph.keys(graph.edges).tolist())
    losses = []
    for a, b in zip(asked.tolist(), answers.tolist(), strict=True):
        others = {c for c in answers.tolist() if c != b and c != a and c % 2 == b % 2 and a * 40 + c not in true}
        scores = [float(z[a] @ z[c]) / relation_weights.TEMPERATURE for c in (b, *sorted(others))]
        losses.append(np.logaddexp.reduce(scores) - scores[0])
    rows = np.unique([asked, answers])
    found = relation_weights.link_contrastive_loss(z[rows], rows, asked, answers, graph.classes, relation_weights.join_nodes(*graph.edges, 40))
    assert found.item() == pytest.approx(np.mean(losses))


def test_deciles_and_what_has_no_class_are_never_hidden_or_asked_for():
    classes = np.where(np.arange(60) % 7 == 0, -1, 0)
    _, graph = random_graph(classes=classes).learning_part(GraphConfig())
    forward, back = (graph.edges[:, places] for places in graph.pairs)
    assert np.array_equal(forward, back[::-1]) and (forward[0] < forward[1]).all()
    expected = {(a, b) for (a, b), kind in zip(graph.edges.T.tolist(), graph.kinds.tolist(), strict=True) if a < b and a % 7 and b % 7 and kind < 4}
    assert set(zip(*forward.tolist(), strict=True)) == expected


def test_siblings_are_the_children_of_one_parent():
    #  1, 2, 3 are children of 0; 4 alone of 3; 5 looks like 0
    pairs, kinds = np.array([[0, 0, 0, 3, 0], [1, 2, 3, 4, 5]]), np.array([1, 1, 1, 1, 2])
    _, graph = whole_graph(pairs, kinds, 6).learning_part(GraphConfig())
    assert graph.children.tolist() == [[1, 2, 3], [0, 0, 0]]
    drawn = {pair for seed in range(50) for pair in zip(*map(np.ndarray.tolist, graph.draw_siblings(np.random.default_rng(seed))), strict=True)}
    assert drawn == {(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)}
    _, none = whole_graph(np.array([[3], [4]]), np.array([1]), 6).learning_part(GraphConfig())
    assert [end.tolist() for end in none.draw_siblings(np.random.default_rng(0))] == [[], []]


def test_whitened_vectors_have_no_correlation():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5000, 6)) @ (np.diag([1, 1, 1, 2, 2, 2]) + 0.3) + 5)
    z = relation_weights.whiten(x, torch.arange(4000), torch.arange(4000)).numpy()
    assert z.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-6) and np.cov(z, rowvar=False) == pytest.approx(np.eye(6), abs=0.05)
    assert relation_weights.whiten(x, torch.arange(4000), torch.tensor([4500, 7])).numpy()[1] == pytest.approx(z[7])


def planted(seed=0, families=40, size=6, width=48):
    """Concepts whose text has a direction of their family's and noise: `Is a` joins them within a family, `Looks like` at random."""
    random = np.random.default_rng(seed)
    nodes = families * size
    text = random.normal(size=(families, width)).repeat(size, axis=0) + 2 * random.normal(size=(nodes, width))
    heads = np.arange(0, nodes, size)
    within = np.concatenate([np.stack([head + np.zeros(size - 1, int), head + np.arange(1, size)]) for head in heads], axis=1)
    others = np.sort(random.integers(0, nodes, (2, 3 * within.shape[1])), axis=0)
    others = others[:, others[0] // size != others[1] // size]
    pairs, first = np.unique(np.hstack([within, others]), axis=1, return_index=True)
    return text.astype(np.float32), whole_graph(pairs, np.where(first < within.shape[1], 1, 2), nodes)


def test_what_says_nothing_loses_its_weight_and_what_is_fixed_keeps_it():
    text, whole = planted()
    _, graph = whole.learning_part(GraphConfig())
    model = relation_weights.fit(torch.from_numpy(text), graph, 2, seed=0)
    is_a, looks_like, decile = model.of_kind.detach().unflatten(1, (3, 2)).mean(dim=(0, 2)).tolist()
    assert is_a > looks_like + 0.2 and decile == 0


def test_one_seed_gives_one_model_another_seed_another():
    text, whole = planted(families=10)
    _, graph = whole.learning_part(GraphConfig())
    one, same, other = (relation_weights.fit(torch.from_numpy(text), graph, 1, seed).of_kind.detach() for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_without_a_pair_to_ask_for_nothing_is_learned():
    whole = whole_graph(np.array([[0], [1]]), np.array([4]), 3)
    _, graph = whole.learning_part(GraphConfig())
    model = relation_weights.fit(torch.zeros(3, 4), graph, 2, seed=0)
    assert model.share.tolist() == [0, 0, 1] and not model.of_kind.any()


def test_a_part_of_a_large_graph_has_whole_neighbourhoods(monkeypatch):
    whole = random_graph(nodes=400, pairs=600)
    x = np.random.default_rng(1).normal(size=(400, 8)).astype(np.float32)
    monkeypatch.setattr(relation_weights, "MAX_NODES", 200)
    nodes, part = whole.learning_part(GraphConfig(neighbors=[10**6, 10**6]))
    assert part.pairs.shape[1] and len(nodes) < 400
    assert set(part.keys(nodes[part.edges]).tolist()) and np.array_equal(whole.classes[nodes], part.classes)
    kind_of = {(a, b): kind for (a, b), kind in zip(whole.edges.T.tolist(), whole.kinds.tolist(), strict=True)}
    found = zip(nodes[part.edges].T.tolist(), part.kinds.tolist(), strict=True)
    assert all(kind_of[a, b] == kind for (a, b), kind in found)
    model = RelationWeights(2, 6)
    seen = np.ones(part.edges.shape[1], dtype=bool)
    z = model(torch.from_numpy(x[nodes]), relation_weights.adjacencies(model, part, seen, torch.from_numpy(part.full_degree).float()))
    complete = np.flatnonzero(
        np.isin(nodes, np.unique(whole.draw_pairs(0)[:, np.random.default_rng(0).permutation(whole.draw_pairs(0).shape[1])[:20]]))
    )
    assert z[complete].detach().numpy() == pytest.approx(dense_sums(model, whole, x)[nodes[complete]], abs=1e-4)


# ---- the text's subspace -----------------------------------------------------------------------------------


def test_the_subspace_is_where_related_concepts_agree():
    """Of 20 directions related concepts share 3, and the others are louder."""
    random = np.random.default_rng(0)
    shared, pairs = random.normal(size=(3, 20)), np.arange(2000).reshape(2, 1000)
    x = 3 * random.normal(size=(2000, 20)) + 2 * np.tile(random.normal(size=(1000, 3)), (2, 1)) @ shared
    text = TextRows([x.astype(np.float32)])
    mean, matrix = relation_weights.fit_subspace(text, pairs, seed=0, width=3)
    z = (text[np.arange(2000)] - mean) @ matrix
    assert z.shape == (2000, 3) and np.cov(z, rowvar=False) == pytest.approx(np.eye(3), abs=0.1)
    correlations = [np.corrcoef(z[:1000, i], z[1000:, i])[0, 1] for i in range(3)]
    rest = np.corrcoef(text[pairs[0]] @ random.normal(size=20), text[pairs[1]] @ random.normal(size=20))[0, 1]
    assert min(correlations) > 0.3 > abs(rest)


def test_a_graph_without_pairs_keeps_the_main_directions():
    x = np.random.default_rng(0).normal(size=(50, 6)) * [1, 1, 1, 1, 5, 9]
    mean, matrix = relation_weights.fit_subspace(TextRows([x.astype(np.float32)]), np.zeros((2, 0), np.int64), seed=0, width=2)
    assert matrix.shape == (6, 2) and np.isfinite((x - mean) @ matrix).all()


def test_equal_texts_have_a_subspace():
    _, matrix = relation_weights.fit_subspace(TextRows([np.ones((9, 4), np.float32)]), np.array([[0, 1], [2, 3]]), seed=0)
    assert matrix.shape == (4, 4) and np.isfinite(matrix).all()
