"""KEEP's walks, counts and losses, against slow second implementations, and whose records it reads."""

import numpy as np
import pytest
import torch

from medrep import contract, storage
from medrep.patients import sequences
from medrep.settings import KeepConfig
from medrep.vectors import concept_index
from medrep.vectors import concept_vectors as shared
from medrep.vocabulary import holdout
from representation import edges, keep

from ..conftest import write_trajectories

TOKENS = [str(1000 + i) for i in range(18)] + ["1000_0", "1000_1", "777"]  # 777 is not in the index
IDS = [*TOKENS[:-1], *(str(2000 + i) for i in range(9))]  # the last nine are never used
SMALL = "width: 8\nwalks_per_concept: 2\nwalk_length: 6\nwindow: 2\nwalk_batch: 8\nshared_negatives: 5\nepochs: 3\nconcept_batch: 7\n"


def ring_of(rows):
    """Both directions of a ring through `rows`, sorted by target."""
    pairs = [p for a, b in zip(rows, [*rows[1:], rows[0]], strict=True) for p in ((a, b), (b, a))]
    return np.array(sorted(pairs, key=lambda p: (p[1], p[0])), dtype=np.int64).T.copy()


EDGES = ring_of([*range(2, 20), *range(20, 27)])  # 1000, 1001, and the last two, which are not used, have none


@pytest.fixture
def keep_root(small_root):
    """Edges among 29 concepts, and the home hospital's 30 persons, of whom ten are of each split."""
    concept_index.write_concept_index(IDS)
    storage.write_array(contract.edges_file(), EDGES)
    write_trajectories("mimic", tokens=TOKENS)
    (small_root / "configs" / "keep.yaml").write_text(SMALL)
    return small_root


def written():
    return contract.concept_array_file("keep").read_bytes()


# ---- node2vec ----------------------------------------------------------------------------------------------


def test_walks_go_along_edges_to_any_neighbour_alike():
    pairs = sorted([(0, 1), (1, 0), (0, 2), (2, 0), (0, 3), (3, 0), (1, 2), (2, 1)], key=lambda p: (p[1], p[0]))
    walker = keep.Walker(np.array(pairs).T.copy(), 5, torch.Generator().manual_seed(0))
    assert walker.joined.tolist() == [0, 1, 2, 3]
    walks = walker.walk(torch.zeros(6000, dtype=torch.int64), 3).numpy()
    assert {(a, b) for walk in walks for a, b in zip(walk, walk[1:], strict=False)} <= set(pairs)
    assert np.bincount(walks[:, 1]) / len(walks) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.03)
    assert np.bincount(walks[walks[:, 1] == 1, 2]) / (walks[:, 1] == 1).sum() == pytest.approx([1 / 2, 0, 1 / 2], abs=0.03)
    drawn = np.bincount(walker.draw_negatives(20000), minlength=5) / 20000
    degree = np.array([3, 2, 2, 1, 0]) ** 0.75
    assert drawn == pytest.approx(degree / degree.sum(), abs=0.02)


def test_the_loss_of_walks_agrees_with_loops():
    random = np.random.default_rng(0)
    walks, (centre, context), negative = random.integers(0, 4, (3, 5)), random.normal(size=(2, 3, 5, 4)), random.normal(size=(6, 4))
    minus_log_sigmoid = lambda x: np.log(1 + np.exp(-x))  # noqa: E731
    together, apart = [], []
    for walk in range(3):
        for i in range(5):
            for j in range(5):
                if 0 < abs(i - j) <= 2 and walks[walk, i] != walks[walk, j]:
                    together.append(minus_log_sigmoid(centre[walk, i] @ context[walk, j]))
            apart += [minus_log_sigmoid(-centre[walk, i] @ other) for other in negative]
    tensors = [torch.from_numpy(array) for array in (centre, context, negative, walks)]
    assert keep.skip_gram_loss(*tensors, window=2, negatives=3.0).item() == pytest.approx(np.mean(together) + 3 * np.mean(apart))


def test_what_is_joined_lies_together_and_what_has_no_edges_anywhere():
    """Two rings of 20, and five concepts alone."""
    both = np.concatenate([ring_of(list(range(20))), ring_of(list(range(20, 40)))], axis=1)
    settings = KeepConfig(width=8, walks_per_concept=20, walk_length=10, window=3, walk_batch=20, walk_learning_rate=0.2)
    vectors = keep.learn_node2vec(both, 45, settings, torch.device("cpu"))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert cosine[both[0], both[1]].mean() > cosine[:20, 20:40].mean() + 0.3
    assert np.isfinite(vectors).all() and len(np.unique(vectors[40:].round(4), axis=0)) == 5
    assert 0.3 < np.linalg.norm(vectors[40:], axis=1).mean() / np.linalg.norm(vectors[:40], axis=1).mean() < 3


# ---- co-occurrences ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("min_persons", [1, 2, 4])
@pytest.mark.parametrize("at_once", [3, 1000])
def test_counts_are_the_persons_who_have_both(min_persons, at_once, monkeypatch):
    monkeypatch.setattr(keep, "CONCEPTS_PER_BLOCK", at_once)
    random = np.random.default_rng(0)
    persons = [np.unique(random.integers(0, 30, random.integers(0, 9))) * 3 for _ in range(25)]  # some have nothing, or one concept
    used, counts = keep.count_persons(persons, min_persons)
    found = {(int(used[i]), int(used[j])): n for i, j, n in zip(*counts.tocoo().coords, counts.tocoo().data, strict=True)}
    expected = {}
    for a in range(0, 90, 3):
        for b in range(0, 90, 3):
            both = sum(a in person and b in person for person in persons)
            if a != b and both >= min_persons:
                expected[a, b] = both
    assert found == expected and used.tolist() == sorted({a for a, _ in expected}) and counts.dtype == np.float32


def test_nobody_has_no_pairs():
    for persons in ([], [np.zeros(0, np.int64)], [np.array([3]), np.array([4])]):
        used, counts = keep.count_persons(persons, 1)
        assert len(used) == 0 and counts.shape == (0, 0)
        vectors, losses = keep.refine(np.zeros((0, 4), np.float32), counts, KeepConfig(), torch.device("cpu"))
        assert vectors.shape == (0, 4) and losses == {}


# ---- GloVe -------------------------------------------------------------------------------------------------


def test_gloves_loss_agrees_with_loops():
    random = np.random.default_rng(0)
    counts = np.triu(random.integers(0, 9, (6, 6)) * (random.random((6, 6)) < 0.6), 1)
    counts, start = counts + counts.T, random.normal(size=(6, 3))
    model, rows = keep.Glove(torch.from_numpy(start)), [4, 0, 3]
    left, right = (start + 0.3 * random.normal(size=(6, 3)) for _ in range(2))
    left_bias, right_bias = random.normal(size=(2, 6))
    for name, value in (("left", left), ("right", right), ("left_bias", left_bias), ("right_bias", right_bias)):
        getattr(model, name).data = torch.from_numpy(value)
    fit = moved = 0.0
    for i in rows:
        for j in range(6):
            if counts[i, j]:
                weight = min(1, counts[i, j] / 5) ** 0.75
                fit += weight * (left[i] @ right[j] + left_bias[i] + right_bias[j] - np.log(counts[i, j])) ** 2
        moved += sum(((left[i] + right[i]) / 2 - start[i]) ** 2)
    found = model.losses(torch.tensor(rows), torch.from_numpy(counts[rows].astype(np.float64)), 5.0)
    assert [loss.item() for loss in found] == pytest.approx([fit, moved])
    assert model.vectors() == pytest.approx((left + right) / 2)


def test_the_pull_keeps_vectors_near_their_start_and_what_persons_have_together_comes_together():
    """Two groups of ten concepts: everyone has those of one group."""
    group = np.arange(20) // 10
    _, counts = keep.count_persons([np.flatnonzero(group == i % 2) for i in range(60)], 1)
    assert counts.data.tolist() == [30] * 180
    start = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    same = (group[:, None] == group) & ~np.eye(20, dtype=bool)
    spread, moved = {}, {}
    for pull in (0.0, 1.0, 1e4):
        vectors, losses = keep.refine(start, counts, KeepConfig(pull=pull, epochs=40, concept_batch=10), torch.device("cpu"))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        spread[pull], moved[pull] = (unit @ unit.T)[same].mean() - (unit @ unit.T)[group[:, None] != group].mean(), losses["moved"]
    assert moved[0.0] > moved[1.0] > moved[1e4] and moved[1e4] < 0.01
    assert spread[0.0] > spread[1e4] + 0.1 and spread[1.0] > spread[1e4] + 0.05


# ---- the stage ---------------------------------------------------------------------------------------------


def test_the_stage_moves_what_train_persons_have_and_leaves_the_rest_to_the_bit(keep_root):
    keep.main(["--gpu-devices", "cpu"])
    made, settings = np.array(shared.open_array("keep")), KeepConfig(**{k: int(v) for k, v in (line.split(": ") for line in SMALL.splitlines())})
    start = keep.learn_node2vec(EDGES, len(IDS), settings, torch.device("cpu"))
    assert made.shape == (29, 8) and made.dtype == np.float32 and np.isfinite(made).all()
    trajectories = sequences.Trajectories("mimic")
    used = set()
    for person in trajectories.rows_in_splits("train"):
        tokens = trajectories.token[trajectories.person_start[person] : trajectories.person_stop[person]]
        used |= {TOKENS[token - 7] for token in tokens} - {"777"}
    assert used == set(IDS[:20])
    assert np.array_equal(made[20:], start[20:]) and (made[:20] != start[:20]).any(axis=1).all()


def test_a_concept_of_one_person_alone_stays(keep_root):
    """Everyone's events but the first train person's are one concept; that person's are another."""
    path = sequences.array_file("token", "mimic")
    trajectories = sequences.Trajectories("mimic")
    tokens = np.full(len(trajectories.token), 7, np.int32)  # 1000
    tokens[: trajectories.person_stop[0]] = 8  # 1001
    storage.write_array(path, tokens)
    keep.main(["--gpu-devices", "cpu", "--set", "keep.epochs=1"])
    first = written()
    keep.main(["--gpu-devices", "cpu", "--set", "keep.epochs=9"])
    assert written() == first  # no pair: there is nothing to learn


def test_only_train_persons_of_the_home_hospital_are_read(keep_root, monkeypatch):
    monkeypatch.setenv("MEDREP_FRESH", "1")
    keep.main(["--gpu-devices", "cpu"])
    first, trajectories, path = written(), sequences.Trajectories("mimic"), sequences.array_file("token", "mimic")
    before = np.array(trajectories.token)
    write_trajectories("ehrshot", seed=5, tokens=TOKENS)
    for split, same in (("valid", True), ("test", True), ("train", False)):
        tokens, person = before.copy(), trajectories.rows_in_splits(split)[0]
        tokens[trajectories.person_start[person] : trajectories.person_stop[person]] = 7
        storage.write_array(path, tokens)
        keep.main(["--gpu-devices", "cpu"])
        assert (written() == first) == same, split


def test_held_out_edges_are_not_used(athena, monkeypatch):
    """That a concept's only edge is held out is as if it had none: walks from elsewhere do not come to it."""
    write_trajectories("mimic", tokens=["2", "11", "20", "20_7", "30", "40"])
    (athena / "configs" / "keep.yaml").write_text(SMALL + "min_persons: 1000\n")  # node2vec alone
    concept_index.write_concept_index(["1", "2", "3", "10", "11", "12", "20", "20_7"])
    monkeypatch.setattr(holdout, "held_out_mask", lambda one, other: (np.minimum(one, other) == 10) & (np.maximum(one, other) == 11))
    edges.main([])
    there, walked = {tuple(edge) for edge in np.load(contract.edges_file()).T.tolist()}, set()
    assert (3, 4) not in there and (0, 1) in there

    walk = keep.Walker.walk

    def watch(walker, first, length):
        walks = walk(walker, first, length)
        walked.update((a, b) for path in walks.tolist() for a, b in zip(path, path[1:], strict=False))
        return walks

    monkeypatch.setattr(keep.Walker, "walk", watch)
    keep.main(["--gpu-devices", "cpu", "--set", "keep.walks_per_concept=20"])
    assert walked == there


def test_a_second_run_makes_nothing_and_the_same_seed_gives_the_same_bytes(keep_root, capsys, monkeypatch):
    keep.main(["--gpu-devices", "cpu"])
    first = written()
    capsys.readouterr()
    keep.main(["--gpu-devices", "cpu"])
    assert "keep.npy is up to date" in capsys.readouterr().out
    monkeypatch.setenv("MEDREP_FRESH", "1")
    keep.main(["--gpu-devices", "cpu"])
    assert "up to date" not in capsys.readouterr().out and written() == first
    monkeypatch.delenv("MEDREP_FRESH")
    keep.main(["--gpu-devices", "cpu", "--set", "keep.seed=1"])
    assert written() != first
    keep.main(["--gpu-devices", "cpu"])
    assert written() == first
    storage.write_array(contract.edges_file(), ring_of(list(range(29))))
    keep.main(["--gpu-devices", "cpu"])
    assert written() != first


def test_a_run_that_fails_leaves_the_array_as_it_was(keep_root, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    keep.main(["--gpu-devices", "cpu"])
    first = written()
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(keep, "refine", fail)
        keep.main(["--gpu-devices", "cpu", "--set", "keep.seed=1"])
    assert written() == first and not list(contract.representation_folder().glob("*.unfinished"))


def test_a_vocabulary_without_edges_has_vectors(keep_root):
    storage.write_array(contract.edges_file(), np.zeros((2, 0), dtype=np.int64))
    keep.main(["--gpu-devices", "cpu"])
    made = np.array(shared.open_array("keep"))
    assert np.isfinite(made).all() and len(np.unique(made, axis=0)) == len(IDS)


def test_missing_inputs_and_wrong_settings_are_named(keep_root):
    with pytest.raises(SystemExit, match="keep.width is 0: it must be 1 or more; keep.walk_length is 1: it must be 2 or more"):
        keep.main(["--set", "keep.width=0", "--set", "keep.walk_length=1"])
    with pytest.raises(SystemExit, match="usedata/seoul/trajectories is missing; preprocessing/trajectories.py writes it"):
        keep.main(["--set", "cohort.home=seoul"])
    with pytest.raises(SystemExit, match="became infinite or no numbers: lower keep.learning_rate"):
        keep.main(["--gpu-devices", "cpu", "--set", "keep.learning_rate=1.0e30"])
    contract.edges_file().unlink()
    with pytest.raises(SystemExit, match="edges.npy is missing; representation/edges.py writes it"):
        keep.main([])


def test_published_files_are_left_alone(put_published, capsys):
    before = put_published()
    keep.main([])
    assert "published files" in capsys.readouterr().out and not contract.concept_array_file("keep").exists() and len(before) == 3
