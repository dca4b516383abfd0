"""The synthetic hospitals: real formats, seeded chunks, honest truth, and never over anyone's data."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from demo import athena_files, hospitals, terminology
from medrep import contract, storage
from medrep.errors import UserError
from medrep.evaluation import metrics


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two hospitals of 600 persons; 600 is not a multiple of the chunk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", tmp_path_factory.mktemp("hospitals"))
        hospitals.main(["--persons", "600", "--seed", "3"])
        yield contract.ROOT


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Few persons are drawn of chunks that are small, too (`made` is there before)."""
    monkeypatch.setattr(hospitals, "CHUNK", 40)


def header(path):
    return path.open(encoding="utf-8").readline().rstrip("\n")


def table(root, hospital, name):
    read = pd.read_csv(root / "data" / hospital / f"{name}.csv", dtype=str, keep_default_na=False)
    return read.rename(columns=str.lower)


def files_of(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted((root / "data").rglob("*.csv"))}


# ---- formats -------------------------------------------------------------------------------------------------


def test_mimic_has_the_columns_of_the_etl_and_the_other_hospital_cdm_54_in_mixed_case(made):
    assert header(made / "data/mimic/death.csv") == (
        "person_id,death_date,death_datetime,death_type_concept_id,cause_concept_id,cause_source_value,cause_source_concept_id"
    )
    assert header(made / "data/mimic/patients.csv") == "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod"
    assert "admitting_source_value" in header(made / "data/mimic/visit_occurrence.csv").split(",")
    other = header(made / "data/ehrshot/visit_occurrence.csv").split(",")
    assert {"Visit_Start_DATETIME", "Admitted_From_Concept_Id"} <= set(other) and "Admitting_Source_Concept_Id" not in other
    assert not (made / "data/ehrshot/patients.csv").exists()


def test_the_vocabulary_is_tab_separated_and_never_quoted(made):
    for name in athena_files.VOCABULARY_FILES:
        lines = (made / "data/concepts" / name).read_text().splitlines()
        columns = lines[0].split("\t")
        assert columns == [c.lower() for c in columns]
        assert {line.count("\t") for line in lines} == {len(columns) - 1}
    with (made / "data/concepts/CONCEPT.csv").open() as file:
        concepts = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert any(c["concept_name"].startswith('"') for c in concepts) and any(c["concept_name"] == "NA" for c in concepts)
    assert all(len(c["valid_start_date"]) == 8 for c in concepts)
    assert len({c["concept_id"] for c in concepts}) == len(concepts) > 1500


def test_every_relationship_is_there_both_ways(made):
    rows = (made / "data/concepts/CONCEPT_RELATIONSHIP.csv").read_text().splitlines()[1:]
    edges = {tuple(row.split("\t")[:3]) for row in rows}
    back = {"Is a": "Subsumes", "RxNorm has ing": "RxNorm ing of", "Maps to": "Mapped from"}
    back |= {v: k for k, v in back.items()}
    assert {kind for *_, kind in edges} == set(back)
    assert all((b, a, back[kind]) in edges for a, b, kind in edges)


def test_mimics_ids_are_signed_hashes_beyond_floats_and_name_one_thing_each(made):
    ids = pd.concat([table(made, "mimic", "person").person_id, table(made, "mimic", "visit_occurrence").visit_occurrence_id]).astype("int64")
    assert ids.is_unique and (ids < 0).any() and (ids.abs() > 2**53).mean() > 0.9
    for name in ("condition_occurrence", "drug_exposure", "measurement", "procedure_occurrence"):
        for hospital in hospitals.HOSPITALS:
            assert table(made, hospital, name)[f"{name}_id"].is_unique


def test_stays_and_outpatient_days_are_told_by_the_source_value(made):
    visits = table(made, "mimic", "visit_occurrence")
    stays = visits[visits.visit_source_value.str.fullmatch(r"\d+\|\d+")]
    days = visits[visits.visit_source_value.str.fullmatch(r"\d+\|\d{4}-\d\d-\d\d")]
    assert len(stays) + len(days) == len(visits) and stays.visit_concept_id.nunique() > 2
    subject = table(made, "mimic", "person").set_index("person_id").person_source_value
    assert (stays.visit_source_value.str.split("|").str[0].to_numpy() == subject[stays.person_id].to_numpy()).all()


def test_mimics_diagnoses_are_stamped_with_the_start_of_the_stay(made):
    conditions, visits = table(made, "mimic", "condition_occurrence"), table(made, "mimic", "visit_occurrence").set_index("visit_occurrence_id")
    billed = conditions[conditions.condition_type_concept_id == "32821"]
    start = visits.visit_start_datetime[billed.visit_occurrence_id]
    assert len(billed) and (billed.condition_start_datetime.to_numpy() == start.to_numpy()).all()


def test_every_rule_of_preprocessing_has_work_to_do(made):
    values = table(made, "mimic", "measurement")
    assert (values.measurement_concept_id == "0").any()
    number = pd.to_numeric(values.value_source_value, errors="coerce")
    assert (values.value_as_number == "").any() and (number.isna() & (values.value_source_value != "")).any()
    hour = values.measurement_datetime.str[:13]
    assert values.assign(hour=hour).duplicated(["person_id", "measurement_concept_id", "hour"]).any()
    people = table(made, "mimic", "patients")
    assert (people.anchor_age.astype(int) < 18).any()
    assert table(made, "mimic", "death").death_datetime.str.endswith("00:00:00").any()
    assert (table(made, "ehrshot", "procedure_occurrence").procedure_datetime == "").all()


def test_nothing_happens_outside_its_visit_or_after_death(made):
    for hospital in hospitals.HOSPITALS:
        visits = table(made, hospital, "visit_occurrence").set_index("visit_occurrence_id")
        values = table(made, hospital, "measurement")
        own = visits.loc[values.visit_occurrence_id]
        assert (own.person_id.to_numpy() == values.person_id.to_numpy()).all()
        assert (values.measurement_datetime.to_numpy() >= own.visit_start_datetime.to_numpy()).all()
        assert (values.measurement_datetime.to_numpy() <= own.visit_end_datetime.to_numpy()).all()
        deaths = table(made, hospital, "death").set_index("person_id").death_date
        last = visits.groupby("person_id").visit_end_date.max()
        assert deaths.index.is_unique and (last[deaths.index] <= deaths).all()


# ---- seeds and chunks ----------------------------------------------------------------------------------------


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(root):
    found = []
    for seed in ("5", "5", "6"):
        hospitals.main(["--persons", "30", "--seed", seed])
        found.append(files_of(root))
        storage.remove_path(root / "data")
    assert found[0] == found[1] and found[0] != found[2]


def test_a_person_does_not_depend_on_how_many_there_are(root):
    hospitals.main(["--persons", "50", "--seed", "5"])
    few = files_of(root)
    hospitals.main(["--persons", "90", "--seed", "5"])
    many = files_of(root)
    for name, content in few.items():
        if "concepts" in name:
            assert many[name] == content
        else:
            assert set(content.splitlines()) <= set(many[name].splitlines()), name


def test_rows_instead_of_persons_draws_chunks_until_there_are_enough(root, monkeypatch, capsys):
    monkeypatch.setattr(hospitals, "CHUNK", 20)
    hospitals.main(["--rows", "15000"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    for hospital in hospitals.HOSPITALS:
        assert figures[hospital]["rows"] >= 15000 and figures[hospital]["persons"] % 20 == 0
        assert len(table(root, hospital, "person")) == figures[hospital]["persons"]


def test_the_second_hospital_may_have_another_size(root):
    hospitals.main(["--persons", "20", "--second-persons", "7"])
    assert [len(table(root, h, "person")) for h in hospitals.HOSPITALS] == [20, 7]


# ---- the truth -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged():
    """Truth and label of many stays, without writing their events' files."""
    vocabulary = terminology.build(0)
    found = []
    for chunk in range(8):
        random = np.random.default_rng([0, chunk])
        drawn = hospitals.course.draw_chunk(500, random)
        empty = hospitals.course.Chunk(drawn.persons, drawn.stays, drawn.events.head(0), drawn.truth)
        _, truth = hospitals.make_tables(empty, hospitals.assign_concepts(empty.events, vocabulary, "mimic", random), "mimic", chunk * 500, random)
        found.append(truth)
    return pd.concat(found)


def test_deaths_come_as_often_as_their_probability_says(judged):
    rate, expected = judged.label.mean(), judged.probability.mean()
    spread = np.sqrt((judged.probability * (1 - judged.probability)).sum()) / len(judged)
    assert abs(rate - expected) < 4 * spread and 0.045 < rate < 0.085
    high = judged[judged.probability > judged.probability.quantile(0.9)]
    assert high.label.mean() == pytest.approx(high.probability.mean(), rel=0.2)


def test_the_best_reachable_auroc_is_that_of_the_literature(judged):
    assert 0.88 <= metrics.compute_metrics(judged.label.to_numpy(), judged.probability.to_numpy())["auroc"] <= 0.93


def test_the_first_day_does_not_tell_how_long_the_stay_will_be():
    full, long = [], []
    for chunk in range(8):
        drawn = hospitals.course.draw_chunk(500, np.random.default_rng([0, chunk]))
        stays, events = drawn.stays, drawn.events
        seen = events[~events.billing & (events.time < stays.start.to_numpy()[events.stay] + hospitals.course.DAY)]
        full.append(np.bincount(seen.stay, minlength=len(stays))[drawn.truth.stay])
        long.append(((stays.end - stays.start) >= 7 * hospitals.course.DAY)[drawn.truth.stay])
    assert 0.45 < metrics.compute_metrics(np.concatenate(long), np.concatenate(full).astype(float))["auroc"] < 0.57


def test_the_truth_stands_at_24_hours_of_stays_still_going_on(made):
    visits = table(made, "mimic", "visit_occurrence")
    truth = pd.read_parquet(made / "truth/mimic.parquet")
    assert list(truth.columns) == ["subject_id", "prediction_time", "outcome", "probability"]
    keyed = visits.assign(
        subject_id=visits.person_id.astype("int64"), prediction_time=pd.to_datetime(visits.visit_start_datetime) + pd.Timedelta(hours=24)
    )
    joined = truth.merge(keyed, on=["subject_id", "prediction_time"], validate="one_to_one")
    assert len(joined) == len(truth) and (pd.to_datetime(joined.visit_end_datetime) >= joined.prediction_time).all()


def test_between_a_fifth_and_a_third_of_the_second_hospitals_events_are_unknown_to_the_first(made):
    used = {}
    for hospital in hospitals.HOSPITALS:
        used[hospital] = pd.concat([table(made, hospital, t)[f"{d}_concept_id"] for d, (t, _) in hospitals.EVENT_TABLES.items()])
        used[hospital] = used[hospital][used[hospital] != "0"]
    unknown = ~used["ehrshot"].isin(set(used["mimic"]))
    assert 0.20 <= unknown.mean() <= 0.33


def test_facts_that_are_coded_otherwise_are_drawn_without_regard_to_severity():
    vocabulary = terminology.build(0)
    other = {}
    for (domain, _, severity), facts in vocabulary.facts.items():
        for fact in facts:
            used = vocabulary.usage[fact[0]]
            other.setdefault((domain, severity), []).append(
                set(used["mimic"][0][:-1]).isdisjoint(used["ehrshot"][0][:-1])
            )  # the last is their parent
            assert all(np.isclose(shares.sum(), 1) for _, shares in used.values())
    for domain in ("condition", "drug", "procedure"):
        mild, severe = np.mean(other[domain, 0]), np.mean(other[domain, 1])
        # 48 and more facts each: two shares drawn at random differ by no more than this
        assert abs(mild - severe) < 4 * np.sqrt(0.28 * 0.72 * (1 / len(other[domain, 0]) + 1 / len(other[domain, 1])))


def test_the_demos_concept_set_means_what_it_says():
    vocabulary = terminology.build(0)
    (item,) = json.loads((contract.REPOSITORY / "codes" / "demo" / "lung_infection.json").read_text())["items"]
    named = vocabulary.concepts.set_index("concept_id").name
    assert named[item["concept"]["CONCEPT_ID"]] == item["concept"]["CONCEPT_NAME"] == "Lung infection" and item["includeDescendants"]


def test_no_column_holds_the_latent_state(made):
    for path in (made / "data").rglob("*.csv"):
        assert not {"severity", "frailty", "burden", "probability", "label"} & set(header(path).lower().replace("\t", ",").split(","))


# ---- the user's data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreign", ["mimic/person.csv", "asan/person.csv", "notes.txt"])
def test_a_data_folder_with_anything_else_is_left_alone(root, foreign):
    path = root / "data" / foreign
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=foreign.split("/")[0]):
        hospitals.main(["--persons", "5"])
    assert path.read_text() == "mine" and not (root / "truth").exists()


def test_a_file_put_among_its_own_is_foreign_too_and_a_readme_is_not(root):
    (root / "data").mkdir()
    (root / "data" / "README.md").write_text("where data goes")
    hospitals.main(["--persons", "5"])
    (root / "data" / "mimic" / "person.csv.gz").write_text("mine")
    with pytest.raises(UserError, match="mimic/person.csv.gz"):
        hospitals.main(["--persons", "6"])
    assert (root / "data" / "README.md").read_text() == "where data goes"


def test_a_second_run_is_up_to_date_and_other_arguments_replace_it(root, capsys):
    hospitals.main(["--persons", "5"])
    before = (root / "data" / "mimic" / "person.csv").stat().st_mtime_ns
    capsys.readouterr()
    hospitals.main(["--persons", "5"])
    assert "up to date" in capsys.readouterr().out and (root / "data" / "mimic" / "person.csv").stat().st_mtime_ns == before
    hospitals.main(["--persons", "6"])
    assert len(table(root, "mimic", "person")) == 6


@pytest.mark.parametrize("flag", ["--persons", "--second-persons", "--rows"])
def test_no_persons_is_refused_by_name(root, flag):
    with pytest.raises(UserError, match=f"{flag} 0"):
        hospitals.main([flag, "0"])
    assert not (root / "data").exists()
