"""HbA1c in percent: 4.0, 4.5 ... 9.0."""

from datetime import datetime

import ibis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep import contract
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.tables import DECILES, PERSONS, RECORDS
from preprocessing import deciles

HBA1C, GLUCOSE = 3004410, 3004501
ELEVEN = [4.0 + i / 2 for i in range(11)]


def measured(values, unit="%", concept=HBA1C, first_person=0):
    return [(first_person + i, datetime(2150, 1, 1), "measurement", concept, float(value), unit, None) for i, value in enumerate(values)]


def records(*groups):
    return ibis.memtable(
        [dict(zip(RECORDS.schema.names, (*row, None, None), strict=True)) for group in groups for row in group], schema=RECORDS.schema
    )


def edges_of(table):
    return {(row["concept_id"], row["unit"]): [row[f"edge_{i}"] for i in range(11)] for row in table.to_pyarrow().to_pylist()}


def test_edges_run_from_the_least_value_to_the_greatest():
    (row,) = deciles.find_deciles(records(measured(ELEVEN)), 10).to_pyarrow().to_pylist()
    assert [row[f"edge_{i}"] for i in range(11)] == ELEVEN and row["n"] == 11


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.sampled_from([0.0, 1.0, 2.5]), st.floats(-1e6, 1e6)), min_size=10, max_size=40))
def test_edges_are_linear_quantiles(values):
    (edges,) = edges_of(deciles.find_deciles(records(measured(values)), 10)).values()
    assert edges == pytest.approx(np.quantile(values, np.arange(11) / 10), abs=1e-6)
    assert edges == sorted(edges)


def test_an_edge_between_two_values_is_the_number_that_people_would_write():
    (edges,) = edges_of(deciles.find_deciles(records(measured([0.0, 3.0])), 2)).values()
    assert edges == [0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0]


def test_units_and_concepts_are_apart_and_too_few_values_give_none():
    table = records(measured(ELEVEN), measured([10 * v for v in ELEVEN], unit="mmol/mol"), measured(ELEVEN[:9], concept=GLUCOSE))
    assert set(edges_of(deciles.find_deciles(table, 10))) == {(HBA1C, "%"), (HBA1C, "mmol/mol")}


def write(engine, hospital, table, train):
    people = [{"person_id": i, "sex": "F", "race": None, "year_of_birth": 2100, "split": "train" if i in train else "test"} for i in range(40)]
    PERSONS.write(engine, ibis.memtable(people, schema=PERSONS.schema), hospital=hospital)
    RECORDS.write(engine, table, hospital=hospital)


def test_train_persons_fit_and_another_hospital_takes_the_homes_edges_first(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    engine = connect()
    write(engine, "home", records(measured(ELEVEN), measured([1000] * 5, first_person=11), measured(ELEVEN, unit="only home")), range(11))
    far = [100 + value for value in ELEVEN]
    write(engine, "away", records(measured(far), measured(far, concept=GLUCOSE), measured([0] * 20, concept=GLUCOSE, first_person=11)), range(11))
    deciles.main(["--hospital", "home", "--home", "home"])
    deciles.main(["--hospital", "away", "--home", "home"])
    assert edges_of(DECILES.read(engine, hospital="home")) == {(HBA1C, "%"): ELEVEN, (HBA1C, "only home"): ELEVEN}
    assert edges_of(DECILES.read(engine, hospital="away")) == {(HBA1C, "%"): ELEVEN, (GLUCOSE, "%"): far}


def test_another_hospital_waits_for_the_home(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    write(connect(), "away", records(measured(ELEVEN)), range(11))
    with pytest.raises(UserError, match="usedata/home/deciles is missing; preprocessing/deciles.py writes it"):
        deciles.main(["--hospital", "away", "--home", "home"])


def test_a_hospital_without_values_has_an_empty_table(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    engine = connect()
    write(engine, "home", records([(1, datetime(2150, 1, 1), "drug", 5, None, None, None)]), range(11))
    deciles.main(["--hospital", "home", "--home", "home"])
    assert DECILES.read(engine, hospital="home").count().execute() == 0
