"""A hospital's tokens as a model's numbers, with values in the token and apart from it."""

import numpy as np
import pytest

from medrep.patients import input_mapping
from medrep.vectors import concept_vectors
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, UNK, Vocabulary

VECTORS = {"1": [1.0, 0], "3": [0, 1], "3_0": [2, 2], "3_9": [4, 6], "5": [7, 7]}
NONE = (0,) * len(SPECIAL_TOKENS)


def make(*tokens, seen=None):
    seen = tokens if seen is None else seen
    return Vocabulary(SPECIAL_TOKENS + tokens, NONE + (5,) * len(tokens), NONE + tuple(int(token in seen) for token in tokens))


@pytest.fixture(autouse=True)
def vectors(root):
    from medrep import contract
    from medrep.vectors import concept_index

    concept_index.write_concept_index(list(VECTORS))
    np.save(contract.concept_array_file("medrep"), np.array(list(VECTORS.values()), dtype=np.float32))


def test_a_measurements_vector_is_the_mean_of_its_deciles_wherever_it_is_asked():
    found, how = concept_vectors.gather_vectors(["1", "3"], "medrep", over_deciles=True)
    assert found.tolist() == [[1, 0], [3, 4]] and set(how) == {"own"}


@pytest.mark.parametrize("rep", ["none", "medrep"])
def test_values_apart_are_read_beside_one_number_a_concept(rep):
    home, there = make("1", "3_0", "3_5", "9", seen=("1", "3_0", "9")), make("1", "3", "3_9", "5", "8_2")
    known, at_home = input_mapping.make_pretraining_mapping(home, rep, values_apart=True)
    assert known.tokens[7:] == ("1", "3", "9")
    lost = UNK if rep == "medrep" else known.number["9"]  # 9 has no vector
    assert at_home.token_map[7:].tolist() == [7, 8, 8, lost] and at_home.value_map[7:].tolist() == [0, 1, 6, 0]
    found = input_mapping.make_input_mapping(there, rep, known, values_apart=True)
    assert found.value_map[7:].tolist() == [0, 0, 10, 0, 3]
    if rep == "none":
        assert found.vectors is None and found.token_map[7:].tolist() == [7, 8, 8, UNK, UNK]
    else:  # the table is that hospital's: 1, 3, 5, 8
        assert found.vectors.tolist() == [[1, 0], [3, 4], [7, 7], [0, 0]]
        assert found.token_map[7:].tolist() == [7, 8, 8, 9, UNK]


def test_what_only_test_persons_have_is_unknown():
    known, found = input_mapping.make_pretraining_mapping(make("1", "3_0", "3_5", seen=("3_0",)), "none")
    assert known.tokens[7:] == ("3_0",) and found.token_map[7:].tolist() == [UNK, 7, UNK] and found.value_map is None
