"""A first look at a hospital: what it shows against plain loops, what it hides, and what it says where stages have not been run."""

import csv
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from experiments import explore
from medrep import contract, storage
from medrep.errors import UserError
from medrep.evaluation.expected_precision import expected_interval
from medrep.patients import sequences
from medrep.tables import LABELS, PERSONS
from medrep.vectors import concept_index
from medrep.vocabulary import token_vocabulary

TOKENS = ["1", "2_7", "3", "4", "5", "6", "7_3"]
INDEX = ["1", "2", "9", "10"]
NAMES = {1: "fever", 2: "heart rate", 3: "high fever", 4: "chronic pain", 5: "pain", 6: "a rare name", 7: "potassium", 9: "pain", 10: "acute pain"}
IS_A = [(3, 9), (9, 10)]
KINDS = {"1": "own", "2_7": "plain", "3": "ancestor", "4": "lost", "5": "lost", "6": "lost", "7_3": "lost"}
NEAREST = {"high fever": ("is below", "pain"), "chronic pain": ("is called like (0.47)", "pain"), "pain": ("maps to", "acute pain")}


def write_concepts(root):
    folder = storage.make_folder(root / "data" / "concepts")
    (folder / "CONCEPT.csv").write_text(
        "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tconcept_code\n"
        + "".join(f"{c}\t{name}\tCondition\tSNOMED\tx\tx\n" for c, name in NAMES.items())
    )
    rows = [(a, b, "Is a") for a, b in IS_A] + [(5, 10, "Maps to")]
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text(
        "concept_id_1\tconcept_id_2\trelationship_id\n" + "".join(f"{a}\t{b}\t{name}\n" for a, b, name in rows)
    )


def write_labels(outcome, of_person, hospital="mine"):
    """of_person: {person_id: the labels of their prediction points}."""
    rows = [(person, label) for person, labels in of_person.items() for label in labels]
    folder = storage.make_folder(LABELS.at(hospital=hospital, outcome=outcome))
    table = pd.DataFrame(rows, columns=["subject_id", "boolean_value"])
    table.insert(1, "prediction_time", pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(len(table)), "h"))
    table.astype({"boolean_value": "boolean"}).to_parquet(folder / "00000.parquet")
    storage.write_json(contract.flow_file(hospital, outcome), {"stays": len(rows), "left out": {}, "labelled": len(rows), "positive": 0})


def write_phenotypes(*names):
    """As MT, but for the gout of the last person alone."""
    (file,) = LABELS.at(hospital="mine", outcome="MT").glob("*.parquet")
    table = pd.read_parquet(file)
    values = table.pop("boolean_value")
    for name in names:
        table[name] = table.subject_id == table.subject_id.max() if name == "gout" else values
    table.to_parquet(storage.make_folder(LABELS.at(hospital="mine", outcome="Pheno")) / "00000.parquet")
    storage.write_json(contract.flow_file("mine", "Pheno"), {})


@pytest.fixture
def mine(small_hospital, root):
    """`mine`, of 90 persons; the concept 6 is in one event of each of 5 of them only."""
    small_hospital("mine", persons=90, tokens=TOKENS)
    opened, special = sequences.Trajectories("mine"), len(token_vocabulary.SPECIAL_TOKENS)
    token, rare = np.array(opened.token), special + TOKENS.index("6")
    token[token == rare] = special
    for row in range(5):
        token[opened.person_start[row]] = rare
    storage.write_array(sequences.array_file("token", "mine"), token)
    seen = tuple(np.bincount(token, minlength=special + len(TOKENS)).tolist())
    token_vocabulary.Vocabulary(token_vocabulary.SPECIAL_TOKENS + tuple(TOKENS), seen, seen).save(contract.vocabulary_file("mine"))
    write_concepts(root)
    concept_index.write_concept_index(INDEX)
    ids = np.asarray(opened.person_id).tolist()
    split = [("train", "valid", "test")[i] for i in np.asarray(opened.person_split).tolist()]
    storage.make_folder(PERSONS.at(hospital="mine"))
    people = pd.DataFrame({"person_id": ids, "sex": "F", "race": None, "year_of_birth": 1950, "split": split})
    people.to_parquet(PERSONS.at(hospital="mine") / "00000.parquet")
    write_labels("MT", {person: [i % 2 == 0] for i, person in enumerate(ids)})
    write_labels("LLOS", {person: [i < 4] for i, person in enumerate(ids)})
    write_labels("RA", {person: [i < 24, i % 3 == 0, None] for i, person in enumerate(ids)})
    return root


def run(*flags):
    """{caption: rows of the CSV} and the page."""
    explore.main(["--hospital", "mine", *flags])
    folder = contract.explore_folder("mine")
    tables = {file.stem: list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines())) for file in folder.glob("*.csv")}
    return tables, (folder / "index.html").read_text(encoding="utf-8")


def test_what_has_a_vector_is_that_of_a_count_event_by_event(mine):
    tables, html = run()
    words, opened = token_vocabulary.load_hospital_vocabulary("mine").tokens, sequences.Trajectories("mine")
    kinds = Counter(KINDS[words[token]] for token in opened.token.tolist())
    (row,) = [row for row in tables["What-is-read-of-mine"] if row[0] == "all"]
    total = len(opened.token)
    assert int(row[3]) == total and row[2] == "vectors of any representation"
    for place, kind in enumerate(("own", "plain", "ancestor", "lost"), 4):
        assert row[place] in (f"{kinds[kind] / total:.1%}", ""), kind
    assert f"{1 - kinds['lost'] / total:.1%}" in html


def test_what_was_left_out_before_stands_beside_the_share(mine, capsys):
    total = len(sequences.Trajectories("mine").token)
    for table, left_out in {"condition_occurrence": {"no concept": 40, "same hour": 20}, "drug_exposure": {"no concept": 30}}.items():
        kept = total - 100 if table == "drug_exposure" else 100
        read = kept + sum(left_out.values()) + 12
        storage.write_json(
            contract.counts_file("mine", table), {"read": read, "kept": kept, "left out": left_out, "rejected": {"unreadable date": 12}}
        )
    tables, html = run()
    words = f"Left out before, and in no share: 114 of {total + 114:,} rows, 70 of them without a concept"
    assert words in html and words in capsys.readouterr().out
    assert ["condition_occurrence", "172", "100", "60", "12"] in tables["Tables-of-mine"]
    assert ["condition_occurrence", "no concept", "left out", "40", "23.3%"] in tables["Reasons-at-mine"]


def test_concepts_without_a_vector_stand_by_count_with_the_nearest_that_has_one(mine):
    tables, html = run()
    rows = tables["Concepts-of-mine-without-a-vector-of-their-own--the-first-4"]
    assert rows[0][:5] == ["concept", "events", "persons", "in data/concepts", "nearest concept with a vector"]
    words, opened = token_vocabulary.load_hospital_vocabulary("mine").tokens, sequences.Trajectories("mine")
    events, persons = Counter(), {}
    for start, stop, person in zip(opened.person_start.tolist(), opened.person_stop.tolist(), opened.person_id.tolist(), strict=True):
        for i in range(start, stop):
            name = NAMES[int(words[opened.token[i]].split("_")[0])]
            events[name] += 1
            persons.setdefault(name, set()).add(person)
    assert [row[0] for row in rows[1:]] == sorted(["high fever", "chronic pain", "pain", "potassium"], key=lambda name: -events[name])
    for name, n_events, n_persons, how, nearest, *_ in rows[1:]:
        assert int(n_persons) == len(persons[name]) and n_events in (str(events[name]), "≥11")
        assert (how, nearest) == NEAREST.get(name, ("", "none found"))
    assert "a rare name" not in html and "1 of fewer than 11 persons each" in html
    tables, html = run("--set", "report.small_count=1", "--concepts", "2")
    assert len(tables["Concepts-of-mine-without-a-vector-of-their-own--the-first-2"]) == 3 and "3 more are not listed" in html


def test_the_events_of_a_concept_that_is_not_listed_can_not_be_computed(mine):
    """Of few persons: what all lost events are less the listed ones."""
    tables, _ = run()
    words, opened = token_vocabulary.load_hospital_vocabulary("mine").tokens, sequences.Trajectories("mine")
    events = Counter(words[token] for token in opened.token.tolist())
    assert 0 < events["6"] < 11
    listed = {row[0]: row[1] for row in tables["Concepts-of-mine-without-a-vector-of-their-own--the-first-4"][1:]}
    assert "≥11" in [listed[name] for name in ("chronic pain", "pain", "potassium")]


def slow_label(outcome, people):
    """(persons with a positive, with a negative) of the persons that `people` chooses, by a loop."""
    table = pd.concat(pd.read_parquet(file) for file in LABELS.at(hospital="mine", outcome=outcome).glob("*.parquet"))
    found = {True: set(), False: set()}
    for person, value in zip(table.subject_id.tolist(), table.boolean_value.tolist(), strict=True):
        if person in people and value is not pd.NA:
            found[bool(value)].add(person)
    return len(found[True]), len(found[False])


@pytest.mark.parametrize("home", ["mine", "mimic"])
def test_labels_are_counted_by_person_and_judged_by_the_interval_to_expect(mine, home, capsys):
    tables, _ = run("--set", f"cohort.home={home}")
    heading, *rows = tables["Labels-of-mine"]
    people = pd.read_parquet(PERSONS.at(hospital="mine") / "00000.parquet")
    everyone, test = set(people.person_id), set(people.person_id[people.split == "test"])
    assert [row[:2] for row in rows[:2]] == [["MT", "test persons, as home"], ["MT", "everyone"]][:: 1 if home == "mine" else -1]
    width = heading.index("width at an AUROC of 0.8")
    for row in rows:
        n = slow_label(row[0], everyone if row[1] == "everyone" else test)
        shown = [cell if cell in ("<11", "≥11") else int(cell) for cell in row[2:4]]
        assert all(cell in (real, "<11", "≥11") for cell, real in zip(shown, n, strict=True))
        assert [cell == "<11" for cell in shown] == [0 < real < 11 for real in n]
        if "<11" in shown or "≥11" in shown or min(n) < 11:
            assert row[width] == ""
        else:
            low, high = expected_interval(0.8, *n)
            assert row[width : width + 3] == [f"{value:.2f}" for value in (high - low, low, high)]
        low, high = expected_interval(0.8, *n) if min(n) else (0, 1)
        assert row[5] == ("too few" if min(n) < 11 else "enough" if high - low <= 0.1 else "rough" if high - low <= 0.2 else "too few")
    assert {row[0]: row[5] for row in rows if row[1] == "everyone"} == {"MT": "rough", "LLOS": "too few", "RA": "rough"}
    assert any(row[width] for row in rows)
    said = capsys.readouterr().out
    assert ("as home, on its test persons" if home == "mine" else "as the test of models from mimic") in said


def test_of_many_labels_of_one_outcome_the_answer_tells_how_many(mine):
    write_phenotypes("asthma", "gout", "angina")
    tables, html = run("--set", "cohort.home=mimic")
    assert [row[0] for row in tables["Labels-of-mine"][1:] if row[0].startswith("Pheno")][::2] == ["Pheno asthma", "Pheno gout", "Pheno angina"]
    assert "rough: MT, RA, 2 of Pheno; too few: LLOS, Pheno gout." in html


def test_few_test_persons_can_not_be_computed_from_the_others(mine):
    """30 test persons of 90: 8 of them have it, 22 of the others do, and 30 of all."""
    people = pd.read_parquet(PERSONS.at(hospital="mine") / "00000.parquet")
    with_it = set(people.person_id[people.split == "test"][:8]) | set(people.person_id[people.split != "test"][:22])
    write_labels("MI", {person: [person in with_it] for person in people.person_id.tolist()})
    tables, _ = run("--set", "cohort.home=mine")
    (home,) = [row for row in tables["Labels-of-mine"] if row[:2] == ["MI", "test persons, as home"]]
    (whole,) = [row for row in tables["Labels-of-mine"] if row[:2] == ["MI", "everyone"]]
    assert home[2] == "<11" and home[5] == "too few" and {"30", "22"} & {whole[2], home[4]} != {"30", "22"}


def test_spans_of_few_persons_tell_nothing(mine):
    tables, html = run()
    opened = sequences.Trajectories("mine")
    days = [
        (int(opened.time[i]) - int(opened.time[start])) // sequences.DAY
        for start, stop in zip(opened.person_start.tolist(), opened.person_stop.tolist(), strict=True)
        for i in range(start, stop)
    ]
    rows = {row[0]: row[1:] for row in tables["Since-a-person-s-first-event-at-mine"][1:]}
    assert int(rows["the first day"][0]) == 90
    few = [row for row in rows.values() if row[0] == "<11"]
    assert all(row[1:] == ["≥11", ""] for row in few)
    later = sum(day >= 365 for day in days)
    assert rows["the second year"][1] in (str(later - sum(day >= 730 for day in days)), "≥11")
    persons = {row[0]: row[1:] for row in tables["Persons-of-mine"][1:]}
    lengths = (opened.person_stop - opened.person_start).tolist()
    assert persons["events"][0] == "" and persons["events"][2] == f"{np.median(lengths):,.0f}"  # 9 persons are in the first tenth
    assert f">{np.median(lengths):,.0f}<" in html


def test_the_files_beside_the_page_have_its_tables(mine):
    tables, html = run()
    shown = re.findall(r'download="([^"]+)\.csv"', html)
    assert sorted(shown) == sorted(tables) and len(shown) == 6
    assert "://" not in re.sub(r"http://www\.w3\.org/\S+", "", html) and str(mine) not in html


def test_what_home_knows_is_told_too(mine, small_hospital):
    small_hospital("mimic", persons=20, tokens=["1", "3"])
    tables, _ = run()
    (codes,) = [row for row in tables["What-is-read-of-mine"] if row[0] == "all" and row[2] == "codes"]
    words, opened = token_vocabulary.load_hospital_vocabulary("mine").tokens, sequences.Trajectories("mine")
    known = sum(words[token] in ("1", "3") for token in opened.token.tolist())
    assert codes[4] in (f"{known / len(opened.token):.1%}", "")


@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_fits_its_window(mine, browser, width):
    write_phenotypes("congestive_heart_failure_nonhypertensive", "gout")
    run()
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 812, "deviceScaleFactor": 1, "mobile": width < 600})
    browser.get((contract.explore_folder("mine") / "index.html").as_uri())
    wide, window, facts = browser.execute_script(
        "return [document.documentElement.scrollWidth, innerWidth, document.querySelector('.facts').getBoundingClientRect().bottom]"
    )
    assert wide <= window == width and facts < 812 and browser.get_log("browser") == []
    if width == 1280:
        cut = "return [...document.querySelectorAll('.scroll')].filter(t => t.scrollWidth > t.clientWidth).map(t => t.ariaLabel)"
        assert browser.execute_script(cut) == []


# ---- what is not there ---------------------------------------------------------------------------------------------


def test_stages_that_have_not_been_run_are_named_with_their_commands(mine, capsys):
    storage.remove_path(contract.trajectories_folder("mine"))
    tables, html = run()
    said = capsys.readouterr().out
    for command in (
        "python preprocessing/trajectories.py --hospital mine",
        "python preprocessing/site_report.py --hospital mine",
        "python preprocessing/deciles.py --hospital mine",
        "python preprocessing/labels.py --hospital mine",
        "HOSPITALS=mimic bash preprocessing/run.sh",
        "python experiments/explore.py --hospital mine --set cohort.home=mine",
    ):
        assert command in said and command in html
        assert command.startswith("HOSPITALS") or (contract.REPOSITORY / "codes" / command.split()[1]).exists()
    assert "labels of " in said and "MT" not in re.search(r"labels of ([^;]*);", said)[1].split(", ")
    assert list(tables) == ["Labels-of-mine"]


def test_without_an_index_the_rest_is_shown(mine, capsys):
    contract.concept_index_file().unlink()
    tables, _ = run()
    assert "python representation/concepts.py" in capsys.readouterr().out
    assert {"Labels-of-mine", "Persons-of-mine"} < set(tables) and "What-is-read-of-mine" not in tables


def test_without_a_vocabulary_concepts_have_their_ids_and_no_nearest(mine):
    storage.remove_path(mine / "data" / "concepts")
    tables, html = run()
    rows = tables["Concepts-of-mine-without-a-vector-of-their-own--the-first-4"][1:]
    assert {row[0] for row in rows} == {"concept 3", "concept 4", "concept 5", "concept 7"} and {row[4] for row in rows} == {"none found"}
    assert "are not in data/concepts" in html


def test_a_hospital_of_which_nothing_is_there_is_refused_with_what_to_run(root):
    storage.make_folder(root / "usedata" / "mine")
    with pytest.raises(UserError) as refusal:
        explore.main(["--hospital", "mine"])
    assert "nothing of mine can be shown yet" in str(refusal.value) and "python preprocessing/persons.py --hospital mine" in str(refusal.value)
    assert not contract.explore_folder("mine").exists()
    with pytest.raises(UserError, match="data/yours is missing"):
        explore.main(["--hospital", "yours"])


def test_settings_that_can_not_be_are_refused(mine):
    with pytest.raises(UserError, match="--concepts 0: give 1 or more"):
        run("--concepts", "0")
    with pytest.raises(UserError, match="report.small_count is 0"):
        run("--set", "report.small_count=0")


def test_the_same_hospital_gives_the_same_bytes(mine):
    run()
    folder = contract.explore_folder("mine")
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    run()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first
