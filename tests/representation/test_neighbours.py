"""The command: by id, by name, and what it says if that is not clear."""

import numpy as np
import pytest

from medrep import contract, storage
from medrep.vectors import concept_index
from representation import neighbours


@pytest.fixture
def vectors(athena):
    ids = ["1", "2", "3", "10", "11", "20", "20_0", "20_1", "21"]
    concept_index.write_concept_index(ids)
    at = dict(zip(ids, range(len(ids)), strict=True))
    array = np.eye(9, 16, dtype=np.float32)
    array[at["3"]] = array[at["2"]] + 0.5 * array[at["3"]]
    array[at["1"]] = array[at["2"]] + 2 * array[at["1"]]
    array[at["20_1"]] = array[at["20_0"]] * 3
    storage.write_array(contract.concept_array_file("medrep"), array)


def lines(capsys):
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_nearest_by_id_and_by_name_in_any_case(vectors, capsys):
    neighbours.main(["2", "-k", "2"])
    by_id = lines(capsys)
    assert by_id == [
        "nearest to 2, Pneumonia (Condition), in medrep:",
        "3 Viral pneumonia (Condition) 0.8944",
        "1 Disorder of lung (Condition) 0.4472",
    ]
    neighbours.main(["pNEUmonia", "-k", "2", "--rep", "medrep"])
    assert lines(capsys) == by_id


def test_part_of_a_name_and_a_decile(vectors, capsys):
    neighbours.main(["viral", "-k", "1"])
    assert lines(capsys)[1] == "2 Pneumonia (Condition) 0.8944"
    neighbours.main(["20_0", "-k", "1"])
    assert lines(capsys) == [
        "nearest to 20_0, Hemoglobin A1c (1st decile) (Measurement), in medrep:",
        "20_1 Hemoglobin A1c (2nd decile) (Measurement) 1.0000",
    ]


def test_several_matches_are_listed(vectors, capsys):
    with pytest.raises(SystemExit, match="2 concepts match 'aspi': give the id"):
        neighbours.main(["aspi"])
    assert lines(capsys) == ["10 aspirin (Drug)", "11 aspirin 100 MG Oral Tablet (Drug)"]


def test_without_a_vocabulary_ids_are_looked_up_and_names_are_not(vectors, athena, capsys):
    contract.data_folder("concepts").rename(athena / "away")
    neighbours.main(["2", "-k", "1"])
    assert lines(capsys)[1] == "3 (data/concepts is missing) () 0.8944"
    with pytest.raises(SystemExit, match="data/concepts is missing"):
        neighbours.main(["Pneumonia"])


def test_an_index_with_a_duplicate_id_is_refused(vectors):
    concept_index.write_concept_index(["1", "2", "3", "10", "11", "20", "20_0", "20_0", "21"])
    with pytest.raises(SystemExit, match="concept_idx.csv has 1 duplicate ids, such as 20_0"):
        neighbours.main(["2"])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["xyz"], "no concept of the index is called 'xyz'"),
        (["50"], "concept 50 is not in the index"),
        (["2", "-k", "0"], "-k 0: ask for 1"),
        (["2", "--rep", "medtok"], "medtok.npy is missing: representation/medtok.py"),
    ],
)
def test_mistakes_are_named(vectors, arguments, words):
    with pytest.raises(SystemExit, match=words):
        neighbours.main(arguments)
