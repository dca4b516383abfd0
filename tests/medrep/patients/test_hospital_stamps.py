"""What two hospitals' data must have in common, by stamps of labels and by deciles that the stage itself wrote."""

from datetime import datetime

import ibis
import pytest

from medrep import stamps, storage
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.patients.hospital_stamps import find_stay_rule, require_same_deciles, require_same_definition
from medrep.patients.index_stays import StayRule
from medrep.settings import CohortConfig
from medrep.tables import LABELS, PERSONS, RECORDS
from preprocessing import deciles

MADE = {"prediction_hours": 24, "transfer_hours": 24, "transfers": "one_stay", "follow_up_ends": "last_record", "history_types": []}


def label(hospital, files=(), outcome="MT", **settings):
    """Labels with the stamp of labels.py."""
    LABELS.write(connect(), ibis.memtable([(1, datetime(2150, 1, 2), True)], schema=LABELS.schema), hospital=hospital, outcome=outcome)
    stamps.Stamp(LABELS.at(hospital=hospital, outcome=outcome), inputs=files, settings=MADE | settings).record()


def test_labels_of_other_settings_are_refused_and_what_is_a_hospitals_own_may_differ(root):
    label("home")
    label("away", follow_up_ends="unknown", history_types=[5])
    require_same_definition("home", "away", "MT")
    label("away", prediction_hours=48, transfers="RA_alone")
    with pytest.raises(UserError) as problem:
        require_same_definition("home", "away", "MT")
    assert "MT has another definition at away than at home (cohort.prediction_hours is 48 there and 24 at home; " in str(problem.value)
    assert "cohort.transfers is 'RA_alone' there" in str(problem.value) and 'HOSPITALS="home away" bash preprocessing/run.sh' in str(problem.value)
    storage.stamp_path(LABELS.at(hospital="away", outcome="MT")).unlink()  # nothing is known
    require_same_definition("home", "away", "MT")


def test_a_setting_that_one_of_the_two_does_not_know_is_not_asked_for(root):
    label("home")
    label("away", of_a_later_version=True)
    require_same_definition("home", "away", "MT")
    require_same_definition("away", "home", "MT")


def test_a_concept_set_that_changed_in_between_is_refused_wherever_it_lies(root, tmp_path):
    file, copy = tmp_path / "stroke.json", tmp_path / "copies" / "stroke.json"
    file.write_text("{}")
    label("home", [file], "stroke")
    label("away", [file], "stroke")
    require_same_definition("home", "away", "stroke")
    copy.parent.mkdir()
    copy.write_text('{"items": []}')
    label("away", [copy], "stroke")
    with pytest.raises(UserError, match=r"stroke has another definition at away than at home \(stroke.json is another file or changed in between\)"):
        require_same_definition("home", "away", "stroke")


def test_which_visits_are_one_stay_is_what_the_labels_had(root):
    today = CohortConfig(transfer_hours=48, transfers="RA_alone")
    assert find_stay_rule("home", "MT", today) == StayRule(48, "RA_alone", joins=False)  # no labels, no stamp
    label("home")
    assert find_stay_rule("home", "MT", today) == StayRule(24, "one_stay", joins=True)
    for outcome, joins in (("MT", False), ("RA", True)):
        label("home", outcome=outcome, transfer_hours=12, transfers="RA_alone")
        assert find_stay_rule("home", outcome, CohortConfig()) == StayRule(12, "RA_alone", joins)


def write_values(hospital, values):
    people = [(i, "M", None, 2100, "train") for i in range(len(values))]
    rows = [(i, datetime(2150, 1, 1), "measurement", 3004410, float(value), "%", None, None, None) for i, value in enumerate(values)]
    PERSONS.write(connect(), ibis.memtable(people, schema=PERSONS.schema), hospital=hospital)
    RECORDS.write(connect(), ibis.memtable(rows, schema=RECORDS.schema), hospital=hospital)


def find_deciles(*hospitals, home, edges="home"):
    for hospital in hospitals:
        deciles.main(["--hospital", hospital, "--set", f"cohort.home={home}", "--set", f"cohort.decile_edges={edges}"])


def test_values_that_another_homes_edges_cut_are_refused(root):
    for n, hospital in enumerate(("home", "away", "third")):
        write_values(hospital, range(n, 20 + n))
    find_deciles("home", "away", home="home")
    require_same_deciles("home", "away")
    require_same_deciles("home", "third")  # of whose deciles nothing is known
    find_deciles("third", "away", home="third")
    with pytest.raises(
        UserError, match='the deciles of away are not those of home .*HOSPITALS="home away" bash preprocessing/run.sh --set cohort.home=home'
    ):
        require_same_deciles("home", "away")
    require_same_deciles("third", "away")
    find_deciles("away", home="home")
    write_values("home", range(100, 120))
    find_deciles("home", home="home")
    with pytest.raises(UserError, match="the deciles of away are not those of home"):  # but of home's as they were
        require_same_deciles("home", "away")
    find_deciles("home", "away", home="home", edges="own")
    require_same_deciles("home", "away")
