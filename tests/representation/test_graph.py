"""The neighbour mean, learned or not, and GRACE's losses and convolutions, against slow second implementations."""

import errno
import os

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch_geometric.data import Data

from medrep import contract, stamps, storage
from medrep.cdm import engine
from medrep.settings import GraphConfig
from medrep.vectors import concept_index, graphs, markers, relation_weights
from medrep.vectors import concept_vectors as shared
from representation import concepts, edges, graph


def random_graph(nodes=40, width=16, seed=0):
    random = np.random.default_rng(seed)
    pairs = {(int(a), int(b)) for a, b in random.integers(0, nodes - 3, (70, 2)) if a != b}  # the last three are isolated
    pairs |= {(a, 0) for a in range(1, 20)}  # a hub
    pairs = sorted({p for a, b in pairs for p in ((a, b), (b, a))}, key=lambda p: (p[1], p[0]))
    return random.normal(size=(nodes, width)).astype(np.float32), np.array(pairs, dtype=np.int64).T.copy()


def data_of(x, edges):
    degree = torch.from_numpy(np.bincount(edges[1], minlength=len(x))).float()
    return Data(x=torch.from_numpy(x), edge_index=torch.from_numpy(edges), full_degree=degree)


def dense(edges, nodes):
    """D^-1/2 (A + I) D^-1/2."""
    a = np.eye(nodes)
    a[edges[1], edges[0]] = 1
    d = a.sum(1)
    return a / np.sqrt(np.outer(d, d))


def dense_gcn(encoder, x, a):
    prelu = lambda v, w: np.where(v > 0, v, w * v)  # noqa: E731
    p = {name: w.detach().numpy().astype(np.float64) for name, w in encoder.state_dict().items()}
    h = prelu(a @ x @ p["first.weight"].T + p["first.bias"], p["act_first.weight"])
    return prelu(a @ h @ p["second.weight"].T + p["bias"], p["act_second.weight"]) + (a @ x if encoder.skip else 0)


@pytest.fixture(params=[True, False], ids=["skip", "published"])
def encoder(request):
    torch.manual_seed(0)
    made = graphs.GraphEncoder(16, 24, skip=request.param)
    torch.nn.init.normal_(made.bias)
    torch.nn.init.normal_(made.first.bias)
    return made


@pytest.mark.parametrize(("rows_at_once", "edges_at_once"), [(1, 1), (5, 7), (40, 3), (10**6, 10**6)])
def test_final_vectors_equal_the_dense_formula(encoder, tmp_path, monkeypatch, rows_at_once, edges_at_once):
    monkeypatch.setattr(graphs, "ROWS_PER_CHUNK", rows_at_once)
    monkeypatch.setattr(graphs, "EDGES_PER_CHUNK", edges_at_once)  # fewer than the hub's and than some rows' together
    x, edges = random_graph()
    np.save(tmp_path / "x.npy", x)  # read-only and memory-mapped, as the stage gives it
    out = np.zeros_like(x)
    graphs.embed_nodes(encoder, np.load(tmp_path / "x.npy", mmap_mode="r"), edges, out, tmp_path)
    assert out == pytest.approx(dense_gcn(encoder, x, dense(edges, len(x))), abs=1e-4)


def test_final_vectors_are_the_same_twice_and_with_any_threads(encoder):
    x, edges = random_graph(nodes=3000)
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 2):
            torch.set_num_threads(number)
            graphs.embed_nodes(encoder, x, edges, out := np.zeros_like(x), None)
            found.append(out)
    finally:
        torch.set_num_threads(threads)
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-6) and np.array_equal(found[1], found[2])


def test_training_with_all_edges_equals_the_dense_formula(encoder):
    x, edges = random_graph()
    data = data_of(x, edges)
    with torch.no_grad():
        found = encoder(data.x, graphs.normalized_adjacency(data.edge_index, data.full_degree, data.full_degree))
    assert found.numpy() == pytest.approx(dense_gcn(encoder, x, dense(edges, len(x))), abs=1e-4)


def test_sums_over_dropped_edges_are_right_on_average():
    x, edges = random_graph()
    data = data_of(x, edges)
    random, total, times = torch.Generator().manual_seed(0), 0, 3000
    for _ in range(times):
        some = data.edge_index[:, torch.rand(edges.shape[1], generator=random) >= 0.2]
        total = total + graphs.normalized_adjacency(some, torch.bincount(some[1], minlength=len(x)).float(), data.full_degree) @ data.x
    # only of nodes that keep an edge for certain, or nearly: one with all edges dropped has none to stand for them
    many = data.full_degree.numpy() >= 6
    assert (total / times).numpy()[many] == pytest.approx((dense(edges, len(x)) @ x)[many], abs=0.05)


def test_info_nce_agrees_with_loops():
    random = np.random.default_rng(0)
    u, v = random.normal(size=(2, 7, 5))
    cos = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    terms = []
    for one, other in ((u, v), (v, u)):
        for i in range(7):
            positive = np.exp(cos(one[i], other[i]) / 0.5)
            negative = sum(np.exp(cos(one[i], other[j]) / 0.5) + np.exp(cos(one[i], one[j]) / 0.5) for j in range(7) if j != i)
            terms.append(-np.log(positive / (positive + negative)))
    assert graph.info_nce(torch.from_numpy(u), torch.from_numpy(v), 0.5).item() == pytest.approx(np.mean(terms))


def test_distillation_is_the_divergence_of_the_softmaxes():
    text, made = np.random.default_rng(0).normal(size=(2, 6, 4))
    p, q = (np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (text, made))
    assert graph.distillation_loss(torch.from_numpy(text), torch.from_numpy(made)).item() == pytest.approx((p * np.log(p / q)).sum(1).mean())
    assert graph.distillation_loss(torch.from_numpy(text), torch.from_numpy(text)).item() == pytest.approx(0)


def test_only_seeds_have_a_loss():
    x, edges = random_graph()
    data = data_of(x, edges)
    batch = next(iter(graphs.make_loader(data, [2, 2], 4, torch.arange(len(x)), shuffle=False)))
    assert batch.batch_size == 4 and batch.num_nodes > 4
    model, settings = graph.Grace(16, 24, True), GraphConfig(drop_edges=0.0, drop_features=0.0)
    plain = [loss.item() for loss in graph.compute_losses(model, batch, settings, torch.Generator().manual_seed(0))]
    batch.x = batch.x.clone()
    one_hop = set(batch.edge_index[0][torch.isin(batch.edge_index[1], torch.arange(4))].tolist())
    far = [i for i in range(4, batch.num_nodes) if i not in one_hop and not any(int(t) in one_hop and int(s) == i for s, t in batch.edge_index.T)]
    for i in far:
        batch.x[i] += 100
    assert [loss.item() for loss in graph.compute_losses(model, batch, settings, torch.Generator().manual_seed(0))] == pytest.approx(plain)


@pytest.mark.parametrize("neighbors", [[2, 2], [30, 20], [3, 2, 2]], ids=["few", "all", "three hops"])
def test_rows_that_the_seeds_do_not_need_change_neither_loss_nor_gradients(neighbors):
    x, edges = random_graph(nodes=200)
    batch = next(iter(graphs.make_loader(data_of(x, edges), neighbors, 6, torch.arange(6), shuffle=False)))
    seeds, inner = graphs.count_inner_and_seed_nodes(batch)
    assert seeds == 6 < inner < batch.num_nodes
    # the rows are those of the seeds and of their neighbours
    assert set(range(inner)) == set(range(6)) | set(batch.edge_index[0][batch.edge_index[1] < 6].tolist())
    settings, found = GraphConfig(), []
    for needed in (graphs.count_inner_and_seed_nodes, lambda batch: (batch.batch_size, batch.num_nodes)):
        torch.manual_seed(0)
        model = graph.Grace(16, 24, True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graphs, "count_inner_and_seed_nodes", needed)
            contrast, kept = graph.compute_losses(model, batch, settings, torch.Generator().manual_seed(0))
        (contrast + kept).backward()
        found.append([contrast.detach(), kept.detach(), *(p.grad for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert one.numpy() == pytest.approx(other.numpy(), rel=1e-4, abs=1e-6)


def test_a_batch_without_edges_is_its_seeds():
    x, edges = random_graph()
    batch = next(iter(graphs.make_loader(data_of(x, edges), [2, 2], 2, torch.tensor([38, 39]), shuffle=False)))
    assert graphs.count_inner_and_seed_nodes(batch) == (2, 2)
    assert torch.isfinite(sum(graph.compute_losses(graph.Grace(16, 24, True), batch, GraphConfig(), torch.Generator().manual_seed(0))))


def test_vectors_and_edges_stay_on_the_disk(small_root):
    x, edges = random_graph()
    with storage.atomic_write(contract.concept_array_file("description")) as part, open(part, "wb") as file:
        np.save(file, x)
    storage.write_array(contract.edges_file(), edges)
    data = graphs.open_graph(contract.concept_array_file("description"))
    loader = graphs.make_loader(data, [2, 2], 4, torch.arange(len(x)), shuffle=False)
    maps = [
        line.split()
        for line in open("/proc/self/maps")
        if line.rstrip().endswith((contract.concept_array_file("description").name, contract.edges_file().name))
    ]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in maps]
    for tensor in (data.x, data.edge_index, loader.node_sampler.row):
        assert any(low <= tensor.data_ptr() < high for low, high in ranges)
    assert torch.equal(data.x, torch.from_numpy(x)) and torch.equal(data.edge_index, torch.from_numpy(edges))


def test_the_best_weights_are_kept_and_the_seed_gives_the_same(tmp_path):
    x, edges = random_graph(nodes=60)
    settings = GraphConfig(hidden_size=24, batch_size=16, epochs=8, patience=3, learning_rate=0.05)
    (one, epochs), (other, again) = (graph.fit(data_of(x, edges), settings, "cpu") for _ in range(2))
    assert epochs == again and all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    best = min(range(len(epochs)), key=lambda i: epochs[i]["held_out"])
    short, _ = graph.fit(data_of(x, edges), GraphConfig(**{**settings.__dict__, "epochs": best + 1}), "cpu")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), short.state_dict().values(), strict=True))
    assert best + 1 < len(epochs)  # otherwise this test says nothing: raise the learning rate


def test_the_stage_writes_one_vector_a_concept(small_root, capsys):
    x, edges = random_graph()
    concept_index.write_concept_index([str(i) for i in range(len(x))])
    with markers.write_marked(contract.concept_array_file("description")) as part, open(part, "wb") as file:
        np.save(file, x)
    storage.write_array(contract.edges_file(), edges)
    graph.main([])
    first = contract.concept_array_file("medrep").read_bytes()
    array = shared.open_array("medrep")
    assert array.shape == x.shape and np.isfinite(array).all() and not np.allclose(array, x)
    graph.main([])
    assert "up to date" in capsys.readouterr().out
    graph.main(["--set", "graph.seed=1"])
    assert contract.concept_array_file("medrep").read_bytes() != first
    graph.main([])
    assert contract.concept_array_file("medrep").read_bytes() == first


def test_edges_of_another_index_are_refused(athena):
    storage.write_array(contract.edges_file(), np.array([[0], [5]]))
    with pytest.raises(SystemExit, match="names row 5, but there are 5 vectors: run representation/run.sh"):
        graphs.open_edges(5)
    for stage in (concepts, edges):
        stage.main([])
    nodes = len(concept_index.read_concept_index())
    graphs.open_edges(nodes)
    concept_index.write_concept_index([*concept_index.read_concept_index().to_pylist(), "999999"])
    with pytest.raises(SystemExit, match="edges.npy was written for another concept_idx.csv than the one that lies there: run representation/run.sh"):
        graphs.open_edges(nodes + 1)


@pytest.mark.parametrize("content", [b"", b"garbage", "a table"])
def test_edges_that_are_none_are_refused(small_root, content):
    storage.make_folder(contract.representation_folder())
    if content == "a table":
        storage.write_array(contract.edges_file(), np.zeros((3, 3)))
    else:
        contract.edges_file().write_bytes(content)
    with pytest.raises(SystemExit, match="edges.npy is not an array of int64 .2, edges.: remove it"):
        graphs.open_edges(5)


def test_siblings_that_differ_stay_apart_only_with_the_neighbours_text_added():
    """Families of a parent and eight children, half mild and half severe; text tells the halves of a family apart."""
    random = np.random.default_rng(0)
    families, width = 60, 16
    kind = np.tile([0] + [-1] * 4 + [1] * 4, families)  # of each node; the parent comes first
    family = np.repeat(np.arange(families), 9)
    x = (random.normal(size=(families, width))[family] + 0.4 * random.normal(size=(len(family), width))).astype(np.float32)
    x[:, 0] += 0.5 * kind
    child = np.flatnonzero(kind)
    edges = np.concatenate([np.stack([child, child // 9 * 9]), np.stack([child // 9 * 9, child])], axis=1)
    edges = edges[:, np.lexsort(edges)].copy()

    def told_apart(vectors):
        """AUROC of a linear rule on the difference from one's siblings, learned in the first half of the families, in the others."""
        children = vectors[child].reshape(families, 8, width)
        apart = (children - children.mean(axis=1, keepdims=True)).reshape(-1, width)
        known, asked = family[child] < 30, family[child] >= 30
        rule = LogisticRegression(max_iter=1000).fit(apart[known], kind[child][known])
        return roc_auc_score(kind[child][asked], rule.decision_function(apart[asked]))

    found = {}
    for skip in (True, False):
        settings = GraphConfig(hidden_size=32, epochs=30, batch_size=256, skip=skip)
        model, _ = graph.fit(data_of(x, edges), settings, "cpu")
        graphs.embed_nodes(model.encoder, x, edges, out := np.zeros_like(x), None)
        found[skip] = told_apart(out)
    assert told_apart(x) > 0.95 and told_apart(x) - found[True] < 0.01
    assert found[True] - found[False] > 0.03


def stop_after(epochs, patch):
    """A process that dies when the state of so many epochs is written."""
    save, saved = graphs.Checkpoint.save, []

    def save_then_die(*arguments):
        save(*arguments)
        saved.append(arguments)
        if len(saved) == epochs:
            raise KeyboardInterrupt

    patch.setattr(graphs.Checkpoint, "save", save_then_die)


def stop(*_):
    raise KeyboardInterrupt


@pytest.fixture
def graph_root(small_root):
    """A small root with text vectors and edges of 60 concepts."""
    x, edges = random_graph(nodes=60)
    concept_index.write_concept_index([str(i) for i in range(len(x))])
    with markers.write_marked(contract.concept_array_file("description")) as part, open(part, "wb") as file:
        np.save(file, x)
    storage.write_array(contract.edges_file(), edges)
    return small_root


def test_a_stage_that_is_stopped_ends_with_the_same_bytes(graph_root, capsys, monkeypatch):
    flags = ["--set", "graph.epochs=6"]
    graph.main(flags)
    whole = contract.concept_array_file("medrep").read_bytes()
    storage.remove_path(contract.concept_array_file("medrep"))
    for epochs in (2, 1):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_after(epochs, patch)
            graph.main(flags)
    capsys.readouterr()
    graph.main(flags)
    assert "graph: continues after epoch 3" in capsys.readouterr().out
    assert contract.concept_array_file("medrep").read_bytes() == whole
    assert not list(contract.representation_folder().glob(".*.training.safetensors"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(2, patch)
        graph.main(["--set", "graph.epochs=6", "--set", "graph.seed=1"])
    capsys.readouterr()
    graph.main(["--set", "graph.epochs=6", "--set", "graph.seed=2"])  # the state of other settings is not continued
    assert "continues" not in capsys.readouterr().out
    monkeypatch.setenv("MEDREP_FRESH", "1")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(2, patch)
        graph.main(flags)
    graph.main(flags)
    assert "continues" not in capsys.readouterr().out
    assert contract.concept_array_file("medrep").read_bytes() == whole


def test_a_full_disk_is_said_before_the_map_is_written(graph_root, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SystemExit, match="no space left for .*medrep.npy: free some"):
        graph.main(["--set", "graph.epochs=1"])
    assert not list(contract.representation_folder().glob("concept_representation_medrep*"))


def test_killed_between_the_array_and_its_stamp_the_array_is_made_again(graph_root, monkeypatch, capsys):
    graph.main(["--set", "graph.epochs=2"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stamps.Stamp, "record", stop)
        graph.main(["--set", "graph.epochs=2", "--set", "graph.seed=1"])
    other = contract.concept_array_file("medrep").read_bytes()
    capsys.readouterr()
    graph.main(["--set", "graph.epochs=2"])
    assert "up to date" not in capsys.readouterr().out and contract.concept_array_file("medrep").read_bytes() != other


def test_text_vectors_of_another_index_or_with_nan_are_refused(graph_root):
    ids = concept_index.read_concept_index().to_pylist()
    concept_index.write_concept_index(["900", *ids[1:]])
    with pytest.raises(SystemExit, match="description.npy was written for another concept_idx.csv"):
        graph.main([])
    concept_index.write_concept_index(ids)
    x = np.array(shared.open_array("description"))
    x[7, 3] = np.nan
    with markers.write_marked(contract.concept_array_file("description")) as part, open(part, "wb") as file:
        np.save(file, x)
    with pytest.raises(SystemExit, match="description.npy has NaN or infinite numbers in the vectors of 1 concepts, such as 7"):
        graph.main([])


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_graph_of_hardly_anything_and_without_edges_has_vectors(small_root, nodes):
    x = np.random.default_rng(0).normal(size=(nodes, 16)).astype(np.float32)
    concept_index.write_concept_index([str(i) for i in range(nodes)])
    with markers.write_marked(contract.concept_array_file("description")) as part, open(part, "wb") as file:
        np.save(file, x)
    storage.write_array(contract.edges_file(), np.zeros((2, 0), dtype=np.int64))
    graph.main([])
    assert shared.open_array("medrep").shape == x.shape and np.isfinite(shared.open_array("medrep")).all()


# ---- nothing learned ---------------------------------------------------------------------------------------

MEAN = ["--set", "graph.objective=neighbour_mean"]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_text(arm, x):
    with markers.write_marked(contract.concept_array_file(arm)) as part, open(part, "wb") as file:
        np.save(file, x)


@pytest.fixture
def two_texts(graph_root):
    """`graph_root` with vectors of names, too; names and definitions."""
    definition = np.array(shared.open_array("description"))
    name = np.random.default_rng(1).normal(size=definition.shape).astype(np.float32)
    write_text("name", name)
    return name, definition


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize(("rows_at_once", "edges_at_once"), [(1, 1), (7, 5), (10**6, 10**6)])
def test_the_neighbour_mean_equals_the_dense_formula_in_any_chunks(two_texts, hops, rows_at_once, edges_at_once, monkeypatch):
    monkeypatch.setattr(graphs, "ROWS_PER_CHUNK", rows_at_once)
    monkeypatch.setattr(graphs, "EDGES_PER_CHUNK", edges_at_once)
    graph.main([*MEAN, "--set", f"graph.hops={hops}"])
    name, definition = (unit(x.astype(np.float64)) for x in two_texts)
    expected = np.linalg.matrix_power(dense(np.load(contract.edges_file()), len(name)), hops) @ unit(name + definition)
    assert np.array(shared.open_array("medrep")) == pytest.approx(expected, abs=1e-5)
    alone = np.bincount(np.load(contract.edges_file())[0], minlength=len(name)) == 0  # keeps its own text
    assert alone.any() and expected[alone] == pytest.approx(unit(name + definition)[alone])


def test_the_neighbour_mean_is_made_anew_when_an_input_or_what_it_uses_changes(two_texts, capsys):
    name, _ = two_texts
    graph.main(MEAN)
    first = contract.concept_array_file("medrep").read_bytes()
    for unused in ("graph.seed=1", "graph.epochs=9"):
        capsys.readouterr()
        graph.main([*MEAN, "--set", unused])
        assert "up to date" in capsys.readouterr().out
    write_text("name", -name)
    graph.main(MEAN)
    assert contract.concept_array_file("medrep").read_bytes() != first
    write_text("name", name)
    graph.main([*MEAN, "--set", "graph.hops=1"])
    assert contract.concept_array_file("medrep").read_bytes() != first
    graph.main(MEAN)
    assert contract.concept_array_file("medrep").read_bytes() == first


def test_what_the_neighbour_mean_cannot_be_of_is_refused(graph_root):
    with pytest.raises(SystemExit, match="name.npy is missing"):
        graph.main(MEAN)
    write_text("name", np.ones((60, 12), dtype=np.float32))
    with pytest.raises(SystemExit, match="text vectors of one width are needed, but .*name.npy 12 and .*description.npy 16 wide"):
        graph.main(MEAN)
    write_text("name", np.full((60, 16), np.nan, dtype=np.float32))
    with pytest.raises(SystemExit, match="name.npy has NaN or infinite numbers in the vectors of 60 concepts"):
        graph.main(MEAN)
    with pytest.raises(SystemExit, match="graph.hops is 0: it must be 1 or more"):
        graph.main([*MEAN, "--set", "graph.hops=0"])
    assert not list(contract.representation_folder().glob("*medrep*"))


# ---- a weight for each kind of relationship ----------------------------------------------------------------

LINKS = ["--set", "graph.objective=links"]


@pytest.fixture
def three_concepts(athena):
    """The miniature vocabulary, its edges, and random text vectors of names and definitions."""
    for stage in (concepts, edges):
        stage.main([])
    rows = len(concept_index.read_concept_index())
    for arm, seed in (("name", 0), ("description", 1)):
        write_text(arm, np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32))
    return rows


def test_links_are_the_sums_of_what_was_learned(three_concepts, monkeypatch, capsys):
    models, fit = [], relation_weights.fit
    monkeypatch.setattr(relation_weights, "fit", lambda *arguments: models.append(fit(*arguments)) or models[-1])
    graph.main(LINKS)
    found = np.array(shared.open_array("medrep"))
    text = relation_weights.TextRows([np.array(shared.open_array(arm)) for arm in ("name", "description")])
    edge_list = graphs.open_edges(three_concepts)
    kinds, names = graphs.open_edge_kinds(edge_list.shape[1])
    whole = relation_weights.WholeGraph(edge_list, kinds, graph.read_classes(engine.connect()), names, ["decile of", "next decile"])
    mean, matrix = relation_weights.fit_subspace(text, whole.draw_pairs(0), 0)
    x = (text[np.arange(three_concepts)] - mean) @ matrix
    degree, share = np.bincount(edge_list[1], minlength=three_concepts) + 1, models[0].share.tolist()
    expected = share[0] * x
    for hop in range(2):
        a = np.diag(models[0].own[hop].exp().item() / degree)
        for (source, target), kind in zip(edge_list.T, kinds, strict=True):
            factor = 1 if "decile" in names[kind // 2] else models[0].of_kind[hop, int(kind)].exp().item()
            a[target, source] = factor / np.sqrt(degree[source] * degree[target])
        x = a @ x
        expected += share[hop + 1] * x
    assert found == pytest.approx(expected, abs=1e-4)
    assert f"vectors of width {found.shape[1]}" in capsys.readouterr().out


def test_links_are_made_anew_when_concepts_or_edges_change(three_concepts, athena, capsys):
    graph.main(LINKS)
    first = contract.concept_array_file("medrep").read_bytes()
    graph.main([*LINKS, "--set", "graph.epochs=9"])
    assert "up to date" in capsys.readouterr().out
    graph.main([*LINKS, "--set", "graph.hops=1"])
    assert contract.concept_array_file("medrep").read_bytes() != first
    graph.main(LINKS)
    assert contract.concept_array_file("medrep").read_bytes() == first
    contract.edge_kinds_file().unlink()
    with pytest.raises(SystemExit, match="edge_kinds.npy is missing: it was damaged or changed since it was written; .* makes it anew"):
        graph.main(LINKS)


def test_deciles_have_no_class(three_concepts):
    ids = concept_index.read_concept_index().to_pylist()
    classes = dict(zip(ids, graph.read_classes(engine.connect()).tolist(), strict=True))
    assert classes["20_7"] == -1 and classes["2"] == classes["3"] >= 0 and classes["10"] != classes["11"]


@pytest.mark.parametrize("make", [np.ones, np.zeros])
def test_links_of_texts_that_are_all_the_same_are_finite(three_concepts, make):
    for arm in ("name", "description"):
        write_text(arm, make((three_concepts, 16), dtype=np.float32))
    graph.main(LINKS)
    assert np.isfinite(np.array(shared.open_array("medrep"))).all()


def test_a_loss_that_is_no_number_is_said_and_nothing_is_written(three_concepts, monkeypatch):
    monkeypatch.setattr(relation_weights, "link_contrastive_loss", lambda *_: torch.tensor(np.nan))
    with pytest.raises(SystemExit, match="the loss of graph.objective links became infinite or no number: graph.objective=neighbour_mean"):
        graph.main(LINKS)
    assert not contract.concept_array_file("medrep").exists()
