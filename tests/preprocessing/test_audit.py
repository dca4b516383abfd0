"""What comes after a prediction time is in no example of any outcome; the audit finds billing codes and tokens that tell."""

import json
from datetime import datetime, timedelta

import ibis
import numpy as np
import pytest

from medrep import contract, storage
from medrep.cdm import outcomes
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.patients import sequences
from medrep.tables import DEATHS, PERSONS, RECORDS, VISITS
from medrep.vocabulary import token_vocabulary
from preprocessing import audit, deciles, labels, trajectories

START, HOUR, DAY = datetime(2150, 3, 4, 10), timedelta(hours=1), timedelta(days=1)
DISEASES = {"MI": 4329847, "PNA": 255848, "Sepsis": 132797, "UTI": 81902, "Fx": 4307254}
HEART_FAILURE, BEFORE, AFTER = 319835, 888, 999
CHARTED, BILLED = 32817, 32821


def write_concepts(root):
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True)
    rows = [(c, name, "SNOMED", c) for name, c in DISEASES.items()] + [
        (HEART_FAILURE, "Heart failure", "SNOMED", "hf"),
        (7, "hf", "ICD9CM", "428.0"),
        (BILLED, "billing", "Type Concept", "x"),
    ]
    head = "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\n"
    (folder / "CONCEPT.csv").write_text(head + "".join(f"{c}\t{name}\tCondition\t{words}\tx\tS\t{code}\n" for c, name, words, code in rows))
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text(f"concept_id_1\tconcept_id_2\trelationship_id\n7\t{HEART_FAILURE}\tMaps to\n")


def record(person, time, concept, visit=None, type_id=CHARTED):
    return dict(zip(RECORDS.schema.names, (person, time, "condition", concept, None, None, visit, type_id, None), strict=True))


@pytest.fixture
def hospital(root):
    """60 persons with an admission of 2 to 11 days and sometimes a second; gives a function that writes more records."""
    write_concepts(root)
    con, random = connect(), np.random.default_rng(0)
    people, deaths, stays, rows = [], [], [], []
    for i in range(60):
        start = START + timedelta(days=int(random.integers(0, 300)), hours=int(random.integers(0, 24)))
        end = start + timedelta(hours=int(random.integers(48, 270)))
        people.append({"person_id": i, "sex": "F", "race": None, "year_of_birth": 2100, "split": "train"})
        deaths += [{"person_id": i, "death_time": end}] if i % 5 == 0 else []
        stays.append((i, start, end))
        if i % 3 == 0 and i % 5:
            stays.append((i, end + 5 * DAY, end + 9 * DAY))
        rows += [record(i, start + timedelta(hours=h), 100 + h % 7, 10 * i) for h in range(12)]
        rows += [record(i, end - HOUR, concept, 10 * i) for k, concept in enumerate([*DISEASES.values(), HEART_FAILURE]) if (i + k) % 4 == 0]
    visits, seen = [], set()
    for i, start, end in sorted(stays):  # a person's first visit is 10 i, the second 10 i + 1
        visits.append(
            {
                "visit_id": 10 * i + (i in seen),
                "person_id": i,
                "start": start,
                "end": end,
                "concept_id": 9201,
                "is_admission": True,
                "is_inpatient": True,
            }
        )
        seen.add(i)

    def write(more=()):
        for table, content in ((PERSONS, people), (DEATHS, deaths), (VISITS, visits), (RECORDS, [*rows, *more])):
            table.write(con, ibis.memtable(content, schema=table.schema), hospital="h")

    write()
    return write


def labels_of(outcome):
    return audit.read_labels(connect(), "h", outcome)


def test_a_token_from_after_the_prediction_time_is_in_no_example_of_any_outcome(hospital):
    labels.main(["--hospital", "h"])
    known = outcomes.built_in_outcomes()
    assert audit.list_labelled_outcomes("h") == sorted(known)
    points = {outcome: labels_of(outcome) for outcome in known}
    for outcome, table in points.items():
        assert len(table) > 20, outcome
        moments = [(row.subject_id, row.prediction_time.to_pydatetime()) for row in table.itertuples()]
        hospital(
            [record(person, time + timedelta(seconds=i % 3), AFTER) for i, (person, time) in enumerate(moments)]
            + [record(person, time - timedelta(seconds=1), BEFORE) for person, time in moments]
        )
        deciles.main(["--hospital", "h", "--home", "h"])
        trajectories.main(["--hospital", "h"])
        data, words = sequences.Trajectories("h"), token_vocabulary.load_hospital_vocabulary("h")
        times = np.array([int((time - datetime(1970, 1, 1)).total_seconds()) for _, time in moments])
        slices = data.slices_before(data.find_rows(np.array([person for person, _ in moments])), times, 2048)
        before, after = words.number[str(BEFORE)], words.number[str(AFTER)]
        first = {}
        for (person, time), (_, start, stop) in zip(moments, slices, strict=True):
            tokens = data.pack(np.array([[0, start, stop]]))["token"]
            assert before in tokens, outcome
            # an earlier prediction point's planted token lies before a later one's time, and may be seen there
            earlier = any(t < time - timedelta(seconds=2) for t in first.setdefault(person, []))
            assert earlier or after not in tokens, outcome
            first[person].append(time)
        assert after in np.asarray(data.token)


def test_the_audit_shows_billing_codes_taken_as_stamped_and_a_token_that_tells(hospital, capsys):
    labels.main(["--hospital", "h", "--outcome", "MT"])
    table = labels_of("MT")
    starts = {row.subject_id: row.prediction_time.to_pydatetime() - DAY for row in table.itertuples()}
    first = [(person, start, value) for (person, start), value in zip(starts.items(), table.drop_duplicates("subject_id").boolean_value, strict=True)]

    def run(more):
        hospital(more)
        labels.main(["--hospital", "h", "--outcome", "MT"])
        deciles.main(["--hospital", "h", "--home", "h"])
        trajectories.main(["--hospital", "h"])
        capsys.readouterr()
        audit.main(["--hospital", "h"])
        return json.loads(contract.audit_file("h").read_text())["MT"], capsys.readouterr().out

    plain, said = run([])
    assert "warning" not in said and not any(row["suspect"] for row in plain["open_stays"])
    assert "found no suspect types, no suspect domains, no suspect first days and no suspect tokens" in said
    visits_ends = {v["person_id"]: v["end"] for v in reversed(VISITS.read(connect(), hospital="h").order_by("start").to_pyarrow().to_pylist())}
    at_discharge = [record(person, visits_ends[person], 500 + i, 10 * person, BILLED) for person, _, _ in first for i in range(3)]
    honest, said = run(at_discharge)
    assert "warning" not in said and BILLED not in {row["type_id"] for row in honest["open_stays"]}
    leaking, said = run([record(person, start, 500 + i, 10 * person, BILLED) for person, start, _ in first for i in range(3)])
    row = next(row for row in leaking["open_stays"] if row["type_id"] == BILLED)
    assert row["suspect"] and row["domain"] == "condition" and row["at_start"] == row["events"] > 100 and row["type"] == "billing"
    assert f"condition events of type {BILLED} billing among them stand at the start of their visit" in said
    # known by their day, codes stand at its end, where what is charted stands, too: it is of other days as well
    starts = {v["person_id"]: v["start"] for v in reversed(VISITS.read(connect(), hospital="h").order_by("start").to_pyarrow().to_pylist())}
    midnights = [datetime.combine(starts[person], datetime.min.time()) for person, *_ in first]
    day_ends = [[midnight + (k + 1) * DAY - timedelta(seconds=1) for k in range(3)] for midnight in midnights]
    days = [record(person, ends[k], 500 + k, 10 * person, None) for (person, *_), ends in zip(first, day_ends, strict=True) for k in range(3)]
    charted, said = run(days)
    assert "warning" not in said and charted["first_days"] == [
        {"domain": "condition", "events": len(days), "on_first_day": len(first), "suspect": False}
    ]
    coded, said = run(
        [record(person, ends[0], 500 + k, 10 * person, None) for (person, *_), ends in zip(first, day_ends, strict=True) for k in range(3)]
    )
    assert coded["first_days"][0]["suspect"]
    assert f"100% of the {len(days)} condition events that are known by their day in such visits are of the visit's first day" in said
    assert "found no suspect types, no suspect domains, 1 suspect first days and no suspect tokens" in said
    audit.main(["--hospital", "h"])  # what is up to date says again what it warned of, and is not made again
    up_to_date, *again = capsys.readouterr().out.splitlines()
    assert up_to_date == "usedata/h/audit.json is up to date"
    assert again == [line for line in said.splitlines() if line.startswith(("h MT", "warning", "usedata/h/audit.json"))]
    telling, said = run([record(person, start + HOUR, 777) for person, start, value in first if value])
    (best,) = telling["best_tokens"]
    assert best["token"] == "777" and best["suspect"] and best["auroc"] > 0.95
    assert "the best single token is 777, AUROC 1.000" in said and "find out when it is recorded" in said


def test_a_domain_is_suspect_whatever_its_types_are(capsys):
    """Bills under three types, none of them with events enough to be suspect alone; drugs charted all day."""
    rows = [{"domain": "condition", "type_id": kind, "type": "", "events": 60, "at_start": 50} for kind in (1, 2, None)]
    rows += [{"domain": "drug", "type_id": 1, "type": "", "events": 400, "at_start": 90}]
    for row in rows:
        row["suspect"] = audit.stands_at_start_too_often(row)
    domains = audit.sum_by_domain(rows)
    assert domains == [
        {"domain": "condition", "events": 180, "at_start": 150, "suspect": True},
        {"domain": "drug", "events": 400, "at_start": 90, "suspect": False},
    ]
    audit.print_audit("h", "MT", {"open_stays": rows, "open_domains": domains, "first_days": [], "best_tokens": []})
    said = capsys.readouterr().out
    assert said.count("warning") == 1 and "83% of the 180 condition events among them stand at the start of their visit, of whatever type" in said
    found = {"open_stays": rows, "open_domains": domains, "first_days": [], "best_tokens": []}
    audit.print_audits("h", {"MT": found, "LLOS": found})  # of two outcomes it is one domain all the same
    assert "of 2 outcomes found no suspect types, 1 suspect domains, no suspect first days and no suspect tokens" in capsys.readouterr().out


def test_labels_of_persons_without_a_trajectory_are_refused_and_those_that_can_not_be_made_anew_are_gone(hospital, root):
    file = root / "mine.csv"
    file.write_text("subject_id,prediction_time,boolean_value\n" + "".join(f"{i},2151-06-01,{i % 2}\n" for i in range(60)))
    labels.main(["--hospital", "h", "--outcome", "MT", str(file)])
    deciles.main(["--hospital", "h", "--home", "h"])
    trajectories.main(["--hospital", "h"])
    np.save(sequences.array_file("person_id", "h"), np.arange(60) + 7)  # other persons than when the labels were made
    storage.stamp_path(contract.trajectories_folder("h")).unlink()  # or they would be taken for damaged
    with pytest.raises(UserError, match="labelled moments of h are of persons without a trajectory; run preprocessing/labels.py again"):
        audit.main(["--hospital", "h"])
    labels.main(["--hospital", "h"])
    (root / "data" / "concepts").rename(root / "data" / "elsewhere")
    labels.main(["--hospital", "h"])
    assert audit.list_labelled_outcomes("h") == ["LLOS", "MT", "RA", "mine"]


def test_the_auroc_of_a_tokens_presence_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(1)
    truth, present = random.integers(0, 2, 80), random.integers(0, 2, (80, 6)) * (random.random((80, 6)) < 0.6)
    presence = np.array([[(present[truth == value, t]).sum() for t in range(6)] for value in (0, 1)])
    found = audit.presence_auroc(presence, np.array([(truth == 0).sum(), (truth == 1).sum()]))
    expected = [max(a, 1 - a) for a in (roc_auc_score(truth, present[:, t]) for t in range(6))]
    assert np.allclose(found, expected)
