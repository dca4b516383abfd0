"""MedTok's tokens, losses and training, against slow second implementations."""

import json
import tempfile

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch_geometric.data import Data

from medrep import contract, storage
from medrep.settings import MedTokConfig
from medrep.vectors import concept_index, graphs, markers
from medrep.vectors import concept_vectors as shared
from representation import medtok

SMALL = MedTokConfig(
    text_codes=12,
    graph_codes=8,
    shared_codes=10,
    codes_per_part=3,
    hidden_size=24,
    batch_size=16,
    epochs=3,
    decay=0.9,
    learning_rate=0.01,
    neighbors=[30, 20],
)
RANGES = [(0, 12), (12, 20), (20, 30), (20, 30)]  # SMALL's, of each part


def random_graph(nodes=60, width=16, seed=0):
    random = np.random.default_rng(seed)
    pairs = {(int(a), int(b)) for a, b in random.integers(0, nodes - 3, (90, 2)) if a != b}  # the last three are isolated
    pairs = sorted({p for a, b in pairs for p in ((a, b), (b, a))}, key=lambda p: (p[1], p[0]))
    return random.normal(size=(nodes, width)).astype(np.float32), np.array(pairs, dtype=np.int64).T.copy()


def data_of(x, edges):
    degree = torch.from_numpy(np.bincount(edges[1], minlength=len(x))).float()
    return Data(x=torch.from_numpy(x), edge_index=torch.from_numpy(edges), full_degree=degree)


def whole_batch(model, x, edges):
    """All nodes as seeds, all their edges seen."""
    batch = data_of(x, edges)
    batch.batch_size = len(x)
    return model.standardize(batch)


@pytest.fixture
def started():
    """A tokenizer that is not trained, with its codes, and its graph."""
    x, edges = random_graph()
    torch.manual_seed(0)
    model = medtok.Tokenizer(torch.from_numpy(x), SMALL)
    model.update_codebook(model.embed_seeds(whole_batch(model, x, edges)).detach())
    return model.eval(), x, edges


def nearest_by_loops(parts, codebook, k):
    tokens, weights = np.zeros((len(parts), 4, k), int), np.zeros((len(parts), 4, k))
    for i in range(len(parts)):
        for p, (first, last) in enumerate(RANGES):
            far = [np.sum((parts[i, p] - codebook[c]) ** 2) for c in range(first, last)]
            near = sorted(range(len(far)), key=far.__getitem__)[:k]
            tokens[i, p] = [first + c for c in near]
            weights[i, p] = [np.exp(-far[c]) / sum(np.exp(-far[d]) for d in near) for c in near]
    return tokens, weights


def compose_by_loops(tokens, weights, codebook):
    return np.array(
        [
            np.concatenate([sum(w * codebook[t] for t, w in zip(*part, strict=True)) for part in zip(*row, strict=True)])
            for row in zip(tokens, weights, strict=True)
        ]
    )


def put_inputs(x, edges):
    concept_index.write_concept_index([str(i) for i in range(len(x))])
    with markers.write_marked(contract.concept_array_file("description")) as part, open(part, "wb") as file:
        np.save(file, x)
    storage.write_array(contract.edges_file(), edges)


def written():
    files = {"vectors": contract.concept_array_file("medtok")} | contract.medtok_files()
    return {name: path.read_bytes() for name, path in files.items() if path.exists()}


@pytest.fixture
def stage_root(small_root):
    """Inputs and SMALL's settings on the disk."""
    put_inputs(*random_graph())
    names = "text_codes graph_codes shared_codes codes_per_part hidden_size batch_size epochs decay learning_rate".split()
    (small_root / "configs" / "medtok.yaml").write_text("".join(f"{name}: {getattr(SMALL, name)}\n" for name in names))
    return small_root


# ---- tokens ------------------------------------------------------------------------------------------------


def test_tokens_are_the_nearest_codes_of_the_parts_region(started):
    model, x, edges = started
    parts = model.embed_seeds(whole_batch(model, x, edges)).detach()
    assert parts.shape == (60, 4, 4) and parts.norm(dim=2).numpy() == pytest.approx(1)
    assert model.codebook().norm(dim=1).numpy() == pytest.approx(1)
    tokens, weights = model.assign_tokens(parts)
    expected, expected_weights = nearest_by_loops(parts.double().numpy(), model.codebook().double().numpy(), 3)
    assert np.array_equal(tokens, expected) and weights.numpy() == pytest.approx(expected_weights, abs=1e-5)
    for part, (first, last) in enumerate(RANGES):
        assert tokens[:, part].min() >= first and tokens[:, part].max() < last
    composed = medtok.compose_vectors(tokens, weights, model.codebook()).flatten(1)
    assert composed.numpy() == pytest.approx(compose_by_loops(expected, expected_weights, model.codebook().double().numpy()), abs=1e-5)


def test_what_all_texts_have_in_common_changes_no_part():
    x, edges = random_graph()
    found = []
    for scale, shift in ((1, 0), (3, 50)):
        torch.manual_seed(0)
        moved = (scale * x + shift).astype(np.float32)
        model = medtok.Tokenizer(torch.from_numpy(moved), SMALL)
        found.append(model.embed_seeds(whole_batch(model, moved, edges)).detach().numpy())
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_a_column_of_one_value_is_no_division_by_zero():
    x, edges = random_graph()
    x[:, 3] = 7
    model = medtok.Tokenizer(torch.from_numpy(x), SMALL)
    assert torch.isfinite(model.embed_seeds(whole_batch(model, x, edges))).all()


def test_codes_that_no_part_chooses_are_replaced(started):
    model, x, edges = started
    parts = model.embed_seeds(whole_batch(model, x, edges)).detach()
    for book in model.books.values():
        book.codebook = book.codebook[:1].repeat(book.codebook_size, 1)  # a collapsed codebook: one code, many times
    assert len(np.unique(model.assign_tokens(parts)[0][:, 0, 0])) == 1
    model.train()
    for _ in range(60):
        model.update_codebook(parts)
    use = medtok.codebook_usage(model, medtok.count_nearest(model.assign_tokens(parts)[0], 30))
    assert min(use[f"use_{region}"] for region in medtok.REGIONS) > 0.8


def test_perplexity_is_the_number_of_equally_used_codes(started):
    assert medtok.perplexity(np.array([5, 5, 0, 5, 5])) == pytest.approx(4)
    assert medtok.perplexity(np.array([0, 9, 0])) == pytest.approx(1)
    share = np.array([1, 2, 5]) / 8
    assert medtok.perplexity(np.array([1, 0, 2, 5])) == pytest.approx(np.prod(share**-share))
    counts = np.zeros(30, dtype=int)
    counts[[0, 1, 2]], counts[12], counts[[20, 29]] = 4, 6, [1, 1]
    use = medtok.codebook_usage(started[0], counts)
    assert [use[f"use_{region}"] for region in ("text", "graph", "shared")] == pytest.approx([3 / 12, 1 / 8, 2 / 10])
    assert [use[f"perplexity_{region}"] for region in ("text", "graph", "shared")] == pytest.approx([3, 1, 2])


def test_only_the_nearest_code_of_each_part_counts():
    tokens = torch.tensor([[[0, 1], [2, 3], [4, 5], [5, 4]], [[1, 0], [2, 3], [4, 5], [4, 5]]])
    assert medtok.count_nearest(tokens, 7).tolist() == [1, 1, 2, 0, 3, 1, 0]


# ---- losses ------------------------------------------------------------------------------------------------


def test_losses_agree_with_loops():
    parts, quantized, noised = np.random.default_rng(0).normal(size=(3, 6, 4, 5))
    found = medtok.compute_losses(*map(torch.from_numpy, (parts, quantized, noised)), MedTokConfig(commitment=0.25, separation=0.3, temperature=0.2))
    cos = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731

    def contrast(one, other):
        return np.mean([-np.log(np.exp(cos(one[i], other[i]) / 0.2) / sum(np.exp(cos(one[i], other[j]) / 0.2) for j in range(6))) for i in range(6)])

    text, graph, shared_text, shared_graph = (quantized[:, part] for part in range(4))
    beside = lambda part, condition: np.concatenate([part, condition], axis=1)  # noqa: E731
    assert found["commitment"].item() == pytest.approx(0.25 * np.mean([np.sum((parts[i] - quantized[i]) ** 2) for i in range(6)]))
    assert found["agreement"].item() == pytest.approx(contrast(shared_text, shared_graph) + contrast(shared_graph, shared_text))
    assert found["specific"].item() == pytest.approx(
        contrast(beside(text, shared_graph), beside(noised[:, 0], shared_graph))
        + contrast(beside(graph, shared_text), beside(noised[:, 1], shared_text))
    )
    common = [sum(np.outer(one[i], other[i]) for i in range(6)) for one, other in ((text, shared_text), (graph, shared_graph))]
    assert found["separation"].item() == pytest.approx(0.3 * sum(np.sqrt((c**2).sum()) for c in common))


def test_parts_that_are_the_same_for_all_concepts_have_the_loss_of_a_blind_guess():
    same = torch.ones(8, 4, 5)
    found = medtok.compute_losses(same, same, same, MedTokConfig())
    assert found["agreement"].item() == pytest.approx(2 * np.log(8)) and found["specific"].item() == pytest.approx(2 * np.log(8))


def test_the_encoders_learn_through_the_quantization_and_codes_by_averages_only(started):
    model, x, edges = started
    _, _, found = medtok.forward_batch(model, whole_batch(model, x, edges), SMALL, torch.Generator().manual_seed(0))
    found["agreement"].backward(retain_graph=True)
    moved = [head.weight.grad is not None and bool(head.weight.grad.abs().sum() > 0) for head in model.heads]
    assert moved == [False, False, True, True]
    sum(loss for name, loss in found.items() if name != "agreement").backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in model.heads) and model.encoder.first.weight.grad.abs().sum() > 0
    assert not any(name.startswith("books") for name, _ in model.named_parameters())


def test_only_seeds_have_a_loss(started):
    model, x, edges = started
    settings = MedTokConfig(**{**SMALL.__dict__, "drop_edges": 0.0, "drop_features": 0.0})

    def read(batch):
        parts, tokens, found = medtok.forward_batch(model, batch, settings, torch.Generator().manual_seed(0))
        assert len(parts) == len(tokens) == 4
        return [loss.item() for loss in found.values()]

    batch = next(iter(graphs.make_loader(data_of(x, edges), [2, 2], 4, torch.arange(len(x)), shuffle=False)))
    plain, nodes = read(batch), batch.num_nodes
    assert nodes > 4
    # two more nodes with an edge between them: were others than seeds asked, they would be negatives and concepts to quantize
    batch.x = torch.cat([batch.x, torch.randn(2, 16)])
    batch.edge_index = torch.cat([batch.edge_index, torch.tensor([[nodes, nodes + 1], [nodes + 1, nodes]])], dim=1)
    batch.full_degree = torch.cat([batch.full_degree, torch.ones(2)])
    assert read(batch) == pytest.approx(plain)
    batch.x[0] += 1
    assert read(batch) != pytest.approx(plain)


def test_a_view_keeps_all_or_drops_that_share():
    x, edges = random_graph()
    data = data_of(x, edges)
    whole, weights = graphs.augmented_view(data, 0.0, 0.0, None)
    assert torch.equal(whole, data.x) and weights.nnz() == edges.shape[1] + len(x)
    random, kept, columns = torch.Generator().manual_seed(0), [], []
    for _ in range(200):
        some, weights = graphs.augmented_view(data, 0.3, 0.4, random)
        kept.append((weights.nnz() - len(x)) / edges.shape[1])
        zero = (some == 0).all(dim=0)
        assert torch.equal(some[:, ~zero], data.x[:, ~zero])
        columns.append(zero.float().mean().item())
    assert np.mean(kept) == pytest.approx(0.7, abs=0.02) and np.mean(columns) == pytest.approx(0.4, abs=0.03)


# ---- training ----------------------------------------------------------------------------------------------


def test_the_best_weights_and_codes_are_kept_and_the_seed_gives_the_same():
    x, edges = random_graph(nodes=100)
    settings = MedTokConfig(**{**SMALL.__dict__, "epochs": 12, "patience": 3, "learning_rate": 0.3})
    (one, epochs), (other, again) = (medtok.fit(data_of(x, edges), settings, "cpu") for _ in range(2))
    same = lambda a, b: all(torch.equal(a.state_dict()[name], w) for name, w in b.state_dict().items())  # noqa: E731
    assert epochs == again and same(one, other)
    assert any("embed" in name for name in one.state_dict())
    best = min(range(len(epochs)), key=lambda i: epochs[i]["held_out"])
    short, _ = medtok.fit(data_of(x, edges), MedTokConfig(**{**settings.__dict__, "epochs": best + 1}), "cpu")
    assert same(one, short)
    assert best + 1 < len(epochs) == best + 1 + settings.patience  # otherwise this test says nothing: raise the learning rate


@pytest.fixture(scope="module")
def crossed():
    """Concepts of eight kinds, told by their text, in eight families, told by whose child they are: half their factors each.

    Composed vectors (concepts, 4, 8) of the children, their kinds and families, their texts, and the use of the codebook.
    """
    random = np.random.default_rng(0)
    children, width, n = 800, 32, 8
    kind, family = random.integers(0, n, children), random.integers(0, n, children)
    text = random.normal(size=(n, width))[kind] + 0.3 * random.normal(size=(children, width))
    x = np.concatenate([text, random.normal(size=(3 * n, width))]).astype(np.float32)  # then three parents a family
    child, parent = (np.tile(np.arange(children), 3), np.concatenate([children + 3 * family + i for i in range(3)]))
    edges = np.concatenate([np.stack([child, parent]), np.stack([parent, child])], axis=1)
    edges = edges[:, np.lexsort(edges)].copy()
    settings = MedTokConfig(
        text_codes=64,
        graph_codes=64,
        shared_codes=64,
        codes_per_part=2,
        hidden_size=64,
        batch_size=256,
        epochs=20,
        patience=20,
        decay=0.9,
        learning_rate=3e-3,
        neighbors=[20, 20],
    )
    model, _ = medtok.fit(data_of(x, edges), settings, "cpu")
    standard = medtok.standardized(x, model, tempfile.TemporaryFile())
    graphs.embed_nodes(model.encoder, standard, edges, out := np.zeros_like(x), None)
    tokens, weights = np.zeros((len(x), 4, 2), np.int32), np.zeros((len(x), 4, 2), np.float32)
    counts = medtok.quantize(model, standard, out, tokens, weights, "cpu")
    return out.reshape(-1, 4, 8)[:children], kind, family, x[:children], medtok.codebook_usage(model, counts)


def accuracy(vectors, truth):
    """Of a linear rule learned on the first half of the concepts, on the other half."""
    vectors, half = vectors.reshape(len(vectors), -1), len(vectors) // 2
    return LogisticRegression(max_iter=2000, C=10).fit(vectors[:half], truth[:half]).score(vectors[half:], truth[half:])


def test_vectors_tell_what_the_text_says_and_what_the_graph_says(crossed):
    vectors, kind, family, text, _ = crossed
    assert accuracy(text, kind) > 0.95 and accuracy(text, family) < 0.25  # an eighth would be chance
    assert accuracy(vectors, kind) > 0.9 and accuracy(vectors, family) > 0.9


def test_a_part_removed_takes_what_it_is_for(crossed):
    """A concept's own text is among what its graph vector sums: its kind is what both sides know, and so in the shared parts, too."""
    vectors, kind, family, _, _ = crossed
    lost = lambda left, truth: accuracy(vectors, truth) - accuracy(vectors[:, left], truth)  # noqa: E731
    assert lost([0, 2, 3], family) > 0.1 > lost([0, 2, 3], kind)  # without graph-specific
    assert lost([0, 2], family) > 0.5 > lost([0, 2], kind)  # without what the graph sees
    assert lost([1, 3], kind) > lost([1, 3], family)  # without what the text sees
    assert accuracy(vectors[:, 0], kind) > accuracy(vectors[:, 1], kind) + 0.1
    assert accuracy(vectors[:, 1], family) > accuracy(vectors[:, 3], family) > accuracy(vectors[:, 0], family) + 0.1


def test_the_codebook_does_not_collapse(crossed):
    use = crossed[-1]
    # eight kinds and eight families at the least; of 64 codes
    assert min(use[f"perplexity_{region}"] for region in medtok.REGIONS) > 16
    assert min(use[f"use_{region}"] for region in medtok.REGIONS) > 0.5


# ---- the stage ---------------------------------------------------------------------------------------------


def test_vectors_are_composed_of_the_saved_tokens_weights_and_codebook(stage_root, capsys):
    medtok.main([])
    files = contract.medtok_files()
    vectors, (tokens, weights, codebook) = shared.open_array("medtok"), (np.load(files[name]) for name in ("tokens", "weights", "codebook"))
    assert vectors.shape == (60, 16) and tokens.shape == weights.shape == (60, 4, 3) and codebook.shape == (30, 4)
    assert (tokens.dtype, weights.dtype, codebook.dtype) == (np.int32, np.float32, np.float32)
    assert np.array(vectors) == pytest.approx(compose_by_loops(tokens, weights, codebook), abs=1e-6)
    for part, (first, last) in enumerate(RANGES):
        assert tokens[:, part].min() >= first and tokens[:, part].max() < last
    epochs = [json.loads(line) for line in files["log"].read_text().splitlines()]
    said = capsys.readouterr().out
    figures = json.loads(said.splitlines()[-1])
    assert [line["epoch"] for line in epochs] == list(range(1, figures["epochs"] + 1))
    assert min(line["held_out"] for line in epochs) == pytest.approx(figures["held_out"], abs=1e-4)
    for region, (first, last), of in zip(("text", "graph", "shared"), (*RANGES[:2], RANGES[2]), ([0], [1], [2, 3]), strict=True):
        used, counts = np.unique(tokens[:, of, 0], return_counts=True)
        share = counts / counts.sum()
        assert figures[f"use_{region}"] == pytest.approx(len(used) / (last - first), abs=1e-4)
        assert figures[f"perplexity_{region}"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), abs=1e-4)
        assert all({f"use_{region}", f"perplexity_{region}"} <= line.keys() for line in epochs)
        assert f"{region}: {figures[f'use_{region}']:.1%} of {last - first} used" in said


@pytest.mark.parametrize("at_once", [7, 10**6])
def test_final_tokens_are_those_of_training_with_all_edges(started, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(medtok, "ROWS_AT_ONCE", at_once)
    model, x, edges = started
    with torch.no_grad():
        parts = model.embed_seeds(whole_batch(model, x, edges))
    expected, expected_weights = model.assign_tokens(parts)
    standard = medtok.standardized(x, model, tempfile.TemporaryFile())
    graphs.embed_nodes(model.encoder, standard, edges, vectors := np.zeros_like(x), tmp_path)
    tokens, weights = np.zeros((60, 4, 3), np.int32), np.zeros((60, 4, 3), np.float32)
    counts = medtok.quantize(model, standard, vectors, tokens, weights, "cpu")
    assert np.array_equal(tokens, expected) and weights == pytest.approx(expected_weights.numpy(), abs=1e-5)
    assert vectors == pytest.approx(medtok.compose_vectors(expected, expected_weights, model.codebook()).flatten(1).numpy(), abs=1e-5)
    assert counts.tolist() == np.bincount(tokens[:, :, 0].ravel(), minlength=30).tolist()


def test_a_second_run_reuses_and_a_fresh_one_gives_the_same_bytes(stage_root, capsys, monkeypatch):
    medtok.main([])
    first = written()
    assert len(first) == 5
    capsys.readouterr()
    medtok.main([])
    assert "medtok.npy is up to date" in capsys.readouterr().out
    medtok.main(["--set", "medtok.seed=1"])
    assert all(written()[name] != first[name] for name in first)
    medtok.main([])
    assert written() == first
    contract.medtok_files()["tokens"].unlink()
    medtok.main([])
    assert written() == first


def test_a_run_that_fails_leaves_all_files_as_they_were(stage_root, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    def run_that_fails():
        with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
            broken.setattr(medtok, "quantize", fail)
            medtok.main(["--set", "medtok.seed=1"])
        return written()

    assert run_that_fails() == {}
    medtok.main([])
    first = written()
    assert run_that_fails() == first and not list(contract.representation_folder().glob("*.unfinished"))


def test_missing_inputs_are_named(small_root):
    concept_index.write_concept_index(["1"])
    with pytest.raises(SystemExit, match="concept_representation_description.npy is missing: representation/description.py writes it"):
        medtok.main([])
    put_inputs(*random_graph())
    contract.edges_file().unlink()
    with pytest.raises(SystemExit, match="edges.npy is missing; representation/edges.py writes it"):
        medtok.main([])


def test_a_width_that_does_not_divide_and_too_few_codes_are_refused_at_once(stage_root):
    put_inputs(*random_graph(width=18))
    with pytest.raises(SystemExit) as problem:
        medtok.main(["--set", "medtok.graph_codes=2"])
    assert "18 wide, which does not divide into the 4 parts" in str(problem.value)
    assert "medtok.graph_codes is 2: it must be as many as medtok.codes_per_part (3)" in str(problem.value)
    assert written() == {}


def test_more_codes_than_concepts_are_said(stage_root, capsys):
    medtok.main(["--set", "medtok.text_codes=90", "--set", "medtok.epochs=1"])
    assert "a region of 90 codes is more than there are concepts to learn them from (57)" in capsys.readouterr().out
    assert np.isfinite(shared.open_array("medtok")).all()


def test_published_files_are_used_as_they_are(put_published, capsys):
    before = put_published()
    medtok.main([])
    assert "they are used as they are" in capsys.readouterr().out
    assert not contract.concept_array_file("medtok").exists() and written() == {}
    assert {name: (contract.representation_folder() / name).read_bytes() for name in before} == before


def test_a_stage_that_is_stopped_ends_with_the_same_bytes(stage_root, capsys, monkeypatch):
    medtok.main([])
    whole = written()
    for path in (contract.concept_array_file("medtok"), *contract.medtok_files().values()):
        storage.remove_path(path)
    save = graphs.Checkpoint.save

    def save_then_die(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(graphs.Checkpoint, "save", save_then_die)
            medtok.main([])
        assert not written()
    capsys.readouterr()
    medtok.main([])
    assert "medtok: continues after epoch 2" in capsys.readouterr().out and written() == whole
