"""A table comes back as it went, and a missing one names the stage that writes it."""

import ibis
import pytest

from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.tables import LABELS


def test_a_missing_table_names_the_stage_that_writes_it(root):
    with pytest.raises(UserError, match="usedata/mimic/labels/MT is missing; preprocessing/labels.py writes it"):
        LABELS.read(connect(), hospital="mimic", outcome="MT")


def test_a_table_comes_back_as_it_went(root):
    engine = connect()
    rows = ibis.memtable([(2**60 + 1, None, True)], schema=LABELS.schema)
    assert LABELS.write(engine, rows, hospital="mimic", outcome="MT") == 1
    assert LABELS.read(engine, hospital="mimic", outcome="MT").to_pyarrow().to_pylist() == [
        {"subject_id": 2**60 + 1, "prediction_time": None, "boolean_value": True}
    ]
