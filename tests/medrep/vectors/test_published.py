"""Published files are used as they are; half a set is refused by name."""

import numpy as np
import pytest

from medrep import contract
from medrep.vectors import concept_vectors as shared
from medrep.vectors import published, representations
from representation import concepts, definitions, description, edges, encoder, evaluate, graph, random_vectors

STAGES = [concepts, definitions, encoder, description, edges, graph]


@pytest.mark.parametrize("reps", [("medrep", "description"), ("medrep",)])
def test_every_stage_leaves_published_files_alone(put_published, reps, capsys):
    before = put_published(reps=reps)
    for stage in STAGES:
        stage.main([])
        assert "they are used as they are" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in contract.representation_folder().iterdir()} == before
    vectors, how = shared.gather_vectors(["20_7", "2"], reps[0])
    assert vectors[:, 0].tolist() == [48, 16] and how.tolist() == ["own", "own"]


@pytest.mark.parametrize(
    "put, words",
    [
        ({"reps": ()}, "concept_idx.csv was not written here and has no"),
        ({"ids": None}, "concept_representation_description.npy, .*medrep.npy came without concept_idx.csv"),
        ({"rows": 5}, "description.npy has 5 rows, but concept_idx.csv 4; .*medrep.npy has 5"),
        ({"kind": np.float64}, "is float64"),
        ({"ids": ("1", "2", "2", "20_7")}, "1 duplicate ids"),
    ],
)
def test_half_a_set_is_refused_by_name(put_published, put, words):
    put_published(**put)
    for stage in STAGES:
        with pytest.raises(SystemExit, match=words):
            stage.main([])


def test_wider_vectors_than_the_model_are_read_through_its_learned_map_and_refused_without(put_published, small_root):
    put_published(width=24)
    assert published.published_representations() == ["description", "medrep"]
    (small_root / "configs" / "models" / "behrt.yaml").write_text("model: {hidden_size: 16, map_vectors: false}\n")
    for stage in STAGES:
        with pytest.raises(SystemExit, match="medrep.npy is 24 wide, but model.hidden_size of configs/models/behrt.yaml is 16"):
            stage.main([])


@pytest.mark.parametrize("stage", [random_vectors, evaluate])
def test_run_sh_adds_nothing_to_published_files(put_published, stage, capsys):
    before = put_published()
    stage.main(["--unless-published"])
    assert "they are used as they are" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in contract.representation_folder().iterdir()} == before and not contract.quality_file().exists()


def test_published_files_copied_over_ours_are_not_taken_for_ours(athena, put_published):
    for stage in STAGES:
        stage.main([])
    assert published.published_representations() == []
    before = put_published()
    assert published.published_representations() == ["description", "medrep"]
    for stage in STAGES:
        stage.main([])
    assert {p.name: p.read_bytes() for p in contract.representation_folder().iterdir() if p.is_file()} == {
        name: content for name, content in before.items()
    }
    contract.concept_array_file("medrep").unlink()
    assert published.published_representations() == ["description"]


def test_a_published_index_over_our_arrays_is_refused(athena, put_published):
    for stage in STAGES:
        stage.main([])
    put_published(reps=("medrep",))
    with pytest.raises(SystemExit, match="description.npy was written here for another concept_idx.csv"):
        published.published_representations()


def test_the_whole_road_twice_gives_the_same_bytes(athena, monkeypatch):
    def walk():
        for stage in STAGES:
            stage.main([])
        return {rep: contract.concept_array_file(rep).read_bytes() for rep in representations.list_representations()}

    first = walk()
    assert set(first) == {"description", "medrep"}
    monkeypatch.setenv("MEDREP_FRESH", "1")
    assert walk() == first
