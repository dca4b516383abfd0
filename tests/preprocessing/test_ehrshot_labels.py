"""EHRSHOT's labels through the stages: its splits are everybody's, each of its rows is accounted for, and its draws are as it gives them."""

import csv
import json
import shutil
from datetime import datetime, timedelta

import ibis
import numpy as np
import pandas as pd
import pytest

from medrep import contract
from medrep.cdm.ehrshot import FINDINGS
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.tables import DEATHS, LABELS, PERSONS, PREDEFINED_SPLITS, RECORDS, VISITS
from preprocessing import labels, persons

from ..small_ehrshot import make_labels, split_of, write_meds_labels, write_meds_splits, write_splits, write_task

DAY = timedelta(days=1)
OURS = {"train": "train", "val": "valid", "test": "test"}
KNOWN = range(1, 41)  # of 44 persons four have no record
FIRST = {person: datetime(2015, 1, 1) + person * 20 * DAY for person in KNOWN}
"""A person's first record."""


def write_tables(splits=None, hospital="h"):
    people = [(person, "F", None, 1950, (splits or {}).get(person, OURS[split_of(person)])) for person in range(1, 45)]
    records = [(person, FIRST[person] + i * DAY, "drug", 5, None, None, None, None, None) for person in KNOWN for i in range(12)]
    for table, rows in ((PERSONS, people), (VISITS, []), (RECORDS, records), (DEATHS, [])):
        table.write(
            connect(), ibis.memtable([dict(zip(table.schema.names, row, strict=True)) for row in rows], schema=table.schema), hospital=hospital
        )


@pytest.fixture
def hospital(root):
    """The tables of h with EHRSHOT's files beside its data; gives their folder."""
    write_tables()
    data = root / "data" / "h"
    write_splits(data / "splits", [person for person in range(1, 45) if person != 40])  # whom the benchmark has not split
    return data


def label(*names, hospital="h"):
    labels.main(["--hospital", hospital, "--outcome", *names])


def rows_of(table, outcome, hospital="h"):
    return table.read(connect(), hospital=hospital, outcome=outcome).to_pandas()


def in_order(table, outcome, hospital="h"):
    rows = rows_of(table, outcome, hospital)
    return rows.sort_values(list(rows.columns), ignore_index=True)


def answer(task, value, finding):
    if task == "chexpert":
        return format(int(value), "b").zfill(14)[FINDINGS.index(finding)] == "1"
    return value in ("True", "1", "2", "3")


def expected_rows(folder, task, finding=""):
    """{(person, minute): answer} that are kept, and {reason: rows}, from the file row by row."""
    points, counts = {}, dict.fromkeys(("unreadable", "unknown", "split", "both", "repeated"), 0)
    with open(folder / task / "labeled_patients.csv") as file:
        for row in csv.DictReader(file):
            try:
                person, time = int(row["patient_id"]), datetime.fromisoformat(row["prediction_time"].replace("Z", "")).replace(second=0, tzinfo=None)
                given = answer(task, str(int(row["value"])) if row["value"].isdigit() else row["value"].capitalize(), finding)
                if row["value"] not in ("True", "False") and not row["value"].isdigit():
                    raise ValueError(row["value"])
            except ValueError:
                counts["unreadable"] += 1
                continue
            if person not in KNOWN:
                counts["unknown"] += 1
            elif person == 40:
                counts["split"] += 1
            else:
                points.setdefault((person, time), []).append(given)
    counts["both"] = sum(len(answers) for answers in points.values() if len(set(answers)) > 1)
    counts["repeated"] = sum(len(answers) - 1 for answers in points.values() if len(set(answers)) == 1)
    return {key: answers[0] for key, answers in points.items() if len(set(answers)) == 1}, counts


def make_messy(task, seed):
    """Labels of all 44 persons; some twice, some contradicted, some that can't be read, some with seconds."""
    random = np.random.default_rng(seed)
    events = {person: [] for person in range(1, 45)}
    table = make_labels(task, events, seed, a_person=3)
    again = table.sample(9, random_state=seed)
    other = again.iloc[:4].assign(value=[not value if isinstance(value, bool) else int(value == 0) for value in again.value[:4]])
    table = pd.concat([table, again.iloc[4:], other], ignore_index=True)
    # EHRSHOT's reader takes times to the minute below: with seconds a row means the same
    seconds = [int(random.integers(0, 60)) if i % 5 == 0 else 0 for i in range(len(table))]
    table["prediction_time"] = [str(time + timedelta(seconds=s)) for time, s in zip(table.prediction_time, seconds, strict=True)]
    odd = pd.DataFrame(
        {"patient_id": ["x", "3", "3"], "prediction_time": ["2015-03-01", "soon", "2015-03-01 23:59:00"], "value": ["True", "True", "maybe"]}
    )
    return pd.concat([table.astype(str), odd.assign(label_type="boolean")], ignore_index=True)


@pytest.mark.parametrize("task", ["guo_icu", "lab_anemia"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_row_is_kept_or_has_a_reason_as_found_row_by_row(hospital, task, seed, capsys):
    folder, outcome = hospital / "benchmark", f"ehrshot_{task}"
    (folder / task).mkdir(parents=True)
    make_messy(task, seed).to_csv(folder / task / "labeled_patients.csv", index=False)
    label(f"ehrshot:{task}")
    kept, counts = expected_rows(folder, task)
    found = rows_of(LABELS, outcome)
    assert {(row.subject_id, row.prediction_time.to_pydatetime()): row.boolean_value for row in found.itertuples()} == kept and len(found) == len(
        kept
    )
    said = capsys.readouterr().out
    total = len(make_messy(task, seed))
    assert f"h {outcome} rows: {total:,} rows; {len(kept):,} kept; left out: {counts['unreadable']} unreadable" in said
    flow = json.loads(contract.flow_file("h", outcome).read_text())
    names = {
        "unreadable": "unreadable",
        "unknown": "no record of the person",
        "split": "person in none of the benchmark's splits",
        "both": "both true and false for the person and time",
        "repeated": "same person and time",
    }
    assert flow["left out"] == {names[reason]: n for reason, n in counts.items() if n} and all(counts.values())
    assert flow["rows"] == total == len(kept) + sum(flow["left out"].values())
    assert flow["without an event before"] == sum(FIRST[person] >= time for person, time in kept) > 0
    assert f"{flow['without an event before']} prediction times are before any event of the person's; they stay" in said
    parts = rows_of(PREDEFINED_SPLITS, outcome)
    assert {(row.subject_id, row.prediction_time.to_pydatetime()): row.part for row in parts.itertuples()} == {
        key: OURS[split_of(key[0])] for key in kept
    }
    assert (parts.shots == 0).all() and (parts.copies == 1).all() and "all_shots_data.json is not there: of --shots nothing can be learned" in said
    assert sum(part["kept"] for part in flow["parts"].values()) == len(kept)
    assert sum(part["read"] for part in flow["parts"].values()) == total - counts["unreadable"] - counts["split"]


def test_a_chest_x_ray_is_fourteen_answers(hospital, capsys):
    rows = make_labels("chexpert", {person: [] for person in KNOWN})
    write_task(hospital / "benchmark", "chexpert", rows[rows.patient_id != 40].reset_index(drop=True))
    label("ehrshot:chexpert")
    for finding in FINDINGS:
        outcome = "ehrshot_chexpert_" + finding.lower().replace(" ", "_")
        kept, _ = expected_rows(hospital / "benchmark", "chexpert", finding)
        found = rows_of(LABELS, outcome)
        assert {(row.subject_id, row.prediction_time.to_pydatetime()): row.boolean_value for row in found.itertuples()} == kept
        assert 0 < found.boolean_value.sum() < len(found)
    capsys.readouterr()
    label("ehrshot:chexpert_edema")
    said = capsys.readouterr().out
    assert "labels/ehrshot_chexpert_edema is up to date" in said and "given_parts/ehrshot_chexpert_edema is up to date" in said


@pytest.mark.parametrize("task", ["guo_icu", "lab_anemia", "chexpert"])
def test_the_meds_release_gives_the_same_labels_and_parts(hospital, task, capsys):
    rows = make_labels(task, {person: [] for person in range(1, 45) if person != 40})
    write_task(hospital / "benchmark", task, rows)
    write_tables(hospital="m")
    release = hospital.parent / "m"
    write_meds_labels(release, task, rows)
    write_meds_splits(release, [person for person in range(1, 45) if person != 40])
    for name in ("h", "m"):
        label(f"ehrshot:{task}", hospital=name)
    assert "m ehrshot_" in (said := capsys.readouterr().out) and "all_shots_data.json is not there: of --shots nothing can be learned" in said
    shutil.copytree(hospital / "benchmark", release / "benchmark", ignore=shutil.ignore_patterns("*.csv"))  # the draws come with the assets alone
    outcomes = [path.name for path in sorted((contract.used_folder("h") / "given_parts").iterdir()) if not path.name.startswith(".")]
    assert len(outcomes) == (14 if task == "chexpert" else 1)
    for outcome in outcomes:
        assert in_order(LABELS, outcome).equals(in_order(LABELS, outcome, "m")) and len(in_order(LABELS, outcome)) > 60
        parts = in_order(PREDEFINED_SPLITS, outcome)
        assert parts[parts.shots == 0].reset_index(drop=True).equals(in_order(PREDEFINED_SPLITS, outcome, "m"))
    label(f"ehrshot:{task}", hospital="m")
    for outcome in outcomes:
        parts = in_order(PREDEFINED_SPLITS, outcome)
        assert parts.equals(in_order(PREDEFINED_SPLITS, outcome, "m")) and (parts.shots > 0).any()
        told = [json.loads(contract.flow_file(name, outcome).read_text()) for name in ("h", "m")]
        assert told[0] == told[1]


def test_a_meds_release_without_splits_or_for_other_persons_is_refused(hospital):
    write_tables(hospital="m")
    release = hospital.parent / "m"
    write_meds_labels(release, "guo_icu", make_labels("guo_icu", {person: [] for person in range(100, 160)}))
    with pytest.raises(UserError, match="data/m/splits/person_id_map.csv is missing, which says who is learned from .* EHRSHOT_MEDS.zip"):
        label("ehrshot:guo_icu", hospital="m")
    write_meds_splits(release, range(100, 160))
    with pytest.raises(UserError, match="ehrshot_guo_icu: none of its 1.. rows can be used .* subject_id must be the person_id of m"):
        label("ehrshot:guo_icu", hospital="m")


def test_draws_are_those_of_the_file_and_one_drawn_twice_counts_twice(hospital):
    rows = make_labels("lab_anemia", {person: [] for person in KNOWN if person != 40})
    rows.loc[rows.patient_id % 3 == 0, "value"] = 0  # of train all but a few are negative: they are drawn again and again
    rows.loc[rows.index[rows.patient_id % 3 == 0][:2], "value"] = 3
    write_task(hospital / "benchmark", "lab_anemia", rows)
    label("ehrshot:lab_anemia")
    parts = rows_of(PREDEFINED_SPLITS, "ehrshot_lab_anemia")
    drawn = json.loads((hospital / "benchmark" / "lab_anemia" / "all_shots_data.json").read_text())["lab_anemia"]
    for k, replicates in drawn.items():
        for replicate, sample in replicates.items():
            for theirs, ours in (("train", "train"), ("val", "valid")):
                names = (f"{name}_{theirs}_k" for name in ("patient_ids", "label_times", "label_values"))
                expected = sorted(
                    (person, datetime.fromisoformat(time), bool(value)) for person, time, value in zip(*(sample[n] for n in names), strict=True)
                )
                mine = parts[(parts.shots == max(int(k), 0)) & (parts.replicate == (int(replicate) if int(k) > 0 else 0)) & (parts.part == ours)]
                found = [
                    (row.subject_id, row.prediction_time.to_pydatetime(), row.boolean_value) for row in mine.itertuples() for _ in range(row.copies)
                ]
                assert sorted(found) == expected
    assert parts.copies.max() == 2  # k = 4 of two positives


def test_draws_of_labels_that_can_not_be_used_are_left_out_and_counted(hospital, capsys):
    write_task(hospital / "benchmark", "guo_los", make_labels("guo_los", {person: [] for person in range(1, 45) if person != 40}))
    label("ehrshot:guo_los")
    said = capsys.readouterr().out
    parts = rows_of(PREDEFINED_SPLITS, "ehrshot_guo_los")
    sizes = parts[parts.shots > 0].groupby(["part", "replicate", "shots"]).copies.sum()
    lost = 2 * 3 * 2 * (1 + 2 + 4) - int(sizes.sum())
    assert lost > 0 and f"{lost} of the 84 examples drawn for few shots are among the labels that can't be used" in said
    assert set(parts.subject_id) <= set(KNOWN)


def damage_shots(file, change):
    content = json.loads(file.read_text())
    for replicates in content["guo_icu"].values():
        for sample in replicates.values():
            change(sample)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda sample: sample.update(label_values_train_k=[1 - v for v in sample["label_values_train_k"]]), "draws .* examples from no row of"),
        (lambda sample: sample.update(patient_ids_val_k=[p + 1 for p in sample["patient_ids_val_k"]]), "draws .* examples from no row of"),
        (
            lambda sample: sample["train_idxs"] and sample.update({k: v * 2 for k, v in sample.items() if "train" in k}),
            "draws from .* of the train part",
        ),
        (lambda sample: sample.pop("label_times_val_k"), "is not what EHRSHOT draws for guo_icu"),
    ],
    ids=["values", "persons", "size", "keys"],
)
def test_draws_of_another_release_are_refused(hospital, change, message):
    write_task(hospital / "benchmark", "guo_icu", make_labels("guo_icu", {person: [] for person in KNOWN if person != 40}))
    damage_shots(hospital / "benchmark" / "guo_icu" / "all_shots_data.json", change)
    with pytest.raises(UserError, match=message):
        label("ehrshot:guo_icu")
    assert not LABELS.at(hospital="h", outcome="ehrshot_guo_icu").exists()


def test_persons_that_were_split_otherwise_are_refused(hospital):
    write_task(hospital / "benchmark", "guo_icu", make_labels("guo_icu", {person: [] for person in KNOWN if person != 40}))
    write_tables({2: "train", 5: "valid", 40: "test"})  # 2 and 5 are the benchmark's test persons
    with pytest.raises(UserError, match="2 persons of h are in other splits than data/h/splits/person_id_map.csv puts them in: .*run.sh"):
        label("ehrshot:guo_icu")


def test_all_are_those_that_are_there_and_a_missing_one_is_named(hospital, capsys):
    with pytest.raises(UserError, match="--outcome ehrshot:guo_los: data/h/benchmark/guo_los/labeled_patients.csv is missing"):
        label("ehrshot:all")
    write_task(hospital / "benchmark", "guo_icu", make_labels("guo_icu", {person: [] for person in KNOWN if person != 40}))
    label("ehrshot:all", "ehrshot:guo_icu")
    said = capsys.readouterr().out
    assert "h ehrshot:all: no labels of chexpert, guo_los, guo_readmission" in said and said.count("labels/ehrshot_guo_icu: ") == 1
    with pytest.raises(
        UserError, match="--outcome ehrshot:lab_anemia: data/h/benchmark/lab_anemia/labeled_patients.csv is missing: bring EHRSHOT_ASS"
    ):
        label("ehrshot:lab_anemia")


def test_times_with_a_zone_are_read_by_the_clock_and_said(hospital, capsys):
    rows = make_labels("guo_icu", {person: [] for person in KNOWN if person != 40}).astype(str)
    rows["prediction_time"] = rows.prediction_time.str.replace(" ", "T") + "-08:00"
    (hospital / "benchmark" / "guo_icu").mkdir(parents=True)
    rows.to_csv(hospital / "benchmark" / "guo_icu" / "labeled_patients.csv", index=False)
    label("ehrshot:guo_icu")
    assert f"warning: h ehrshot_guo_icu: {len(rows)} prediction times have a zone, which is cut off" in capsys.readouterr().out
    assert set(rows_of(LABELS, "ehrshot_guo_icu").prediction_time.dt.strftime("%H:%M:%S")) == {"23:59:00"}


def test_persons_of_nobody_known_are_an_error(hospital):
    write_splits(hospital / "splits", range(100, 160))
    write_task(hospital / "benchmark", "guo_icu", make_labels("guo_icu", {person: [] for person in range(100, 160)}))
    with pytest.raises(UserError, match="ehrshot_guo_icu: none of its 1.. rows can be used .* patient_id must be the person_id of h"):
        label("ehrshot:guo_icu")


def test_the_stage_of_persons_puts_them_into_the_benchmarks_splits(root, capsys):
    data = root / "data" / "h"
    data.mkdir(parents=True)
    (data / "person.csv").write_text("person_id,gender_concept_id,year_of_birth\n" + "".join(f"{person},8507,1950\n" for person in range(1, 41)))
    persons.main(["--hospital", "h"])
    ours = PERSONS.read(connect(), hospital="h").to_pandas().set_index("person_id").split.sort_index()
    write_splits(data / "splits", range(1, 31))
    persons.main(["--hospital", "h"])  # anew: there are splits now
    found = PERSONS.read(connect(), hospital="h").to_pandas().set_index("person_id").split.sort_index()
    assert "30 persons are in the splits that data/h/splits/person_id_map.csv gives them" in capsys.readouterr().out
    assert found[:30].to_dict() == {person: OURS[split_of(person)] for person in range(1, 31)} and found[30:].equals(ours[30:])
    assert not ours[:30].equals(found[:30])
    persons.main(["--hospital", "h"])
    assert "usedata/h/persons is up to date" in capsys.readouterr().out
