"""The card's made-up record is what this package makes of such a record, array by array and number by number."""

import ibis
import numpy as np
import pandas as pd

from medrep import contract, storage
from medrep.cdm.engine import connect
from medrep.patients import record_features, sequences
from medrep.patients.examples import Examples
from medrep.patients.input_mapping import InputMapping
from medrep.publishing import example
from medrep.tables import LABELS, VISITS
from medrep.vocabulary.token_vocabulary import FEMALE, SPECIAL_TOKENS, Vocabulary

TIME = 5 * 10**8
EVENTS = ["100", "200", "300_8", "301_6"]


def moment(hours):
    return pd.Timestamp(TIME + 3600 * hours, unit="s")


def write_record():
    first = len(SPECIAL_TOKENS)
    events = {
        "token": [first, first + 1, first + 2, first + 3],
        "domain": [1, 2, 3, 3],
        "age": [60, 60, 61, 61],
        "time": [TIME - 3600 * hours for hours in example.HOURS],
        "visit_rank": [1, 1, 2, 2],
        "record_rank": [1, 2, 1, 2],
        "long_visit": [0, 0, 0, 0],
    }
    people = {"person_id": [1], "sex": [FEMALE], "split": [0], "start": [0], "stop": [4]}
    for name, kind in (sequences.EVENT_ARRAYS | sequences.PERSON_ARRAYS).items():
        own = people if name in sequences.PERSON_ARRAYS else events
        storage.write_array(sequences.array_file(name, "mimic"), np.array(own[name], dtype=kind))
    counts = (1,) * (first + len(EVENTS))
    Vocabulary((*SPECIAL_TOKENS, *EVENTS), counts, counts).save(contract.vocabulary_file("mimic"))
    visits = [(1, 1, moment(-8790), moment(-8700), 9201, True, True), (2, 1, moment(-24), moment(90), 9201, True, True)]
    VISITS.write(connect(), ibis.memtable(visits, schema=VISITS.schema), hospital="mimic")
    LABELS.write(connect(), ibis.memtable([(1, moment(0), True)], schema=LABELS.schema), hospital="mimic", outcome="MT")


def test_the_made_up_record_is_read_as_here(root):
    write_record()
    examples, values = Examples("mimic", "MT", 16), np.array([0] * len(SPECIAL_TOKENS) + [0, 0, 9, 7])
    batch = examples.pack(examples.table, InputMapping(np.arange(len(values)), None, values), stays=True)
    found = example.make_arrays([8, 6])
    assert {name: batch[name].tolist() for name in found} == found
    assert examples.part_lengths(examples.table).tolist() == [list(example.PARTS)]
    numbers = record_features.record_level_features(examples, 180)[0]
    np.testing.assert_allclose(example.numbers_of([8, 6]), numbers, rtol=1e-6)
