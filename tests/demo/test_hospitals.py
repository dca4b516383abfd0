"""The synthetic hospitals: real formats, seeded chunks, honest truth, and never over anyone's data."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from demo import athena_files, course, hospitals, terminology
from medrep import contract, storage
from medrep.errors import UserError
from medrep.evaluation import metrics
from medrep.tables import LABELS
from preprocessing import deaths, labels, persons, records, visits

OUTCOMES = ("MT", "LLOS", "RA")


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


def truth_of(root, hospital):
    return pd.read_parquet(root / "truth" / f"{hospital}.parquet")


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
        found.append(files_of(root) | {h: (root / "truth" / f"{h}.parquet").read_bytes() for h in hospitals.HOSPITALS})
        storage.remove_path(root / "data")
    assert found[0] == found[1] and found[0] != found[2]


def test_a_person_does_not_depend_on_how_many_there_are(root):
    hospitals.main(["--persons", "50", "--seed", "5"])
    few, truth = files_of(root), truth_of(root, "mimic")
    hospitals.main(["--persons", "90", "--seed", "5"])
    more = truth_of(root, "mimic")
    pd.testing.assert_frame_equal(truth, more[more.subject_id.isin(truth.subject_id)].reset_index(drop=True))
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
def stays():
    """The stays of 20,000 persons, without their events, and what is latent of the person beside each."""
    random = np.random.default_rng(0)
    people = course.draw_persons(20_000, random)
    planned = course.draw_planned_admissions(people, random)
    found = course.place_in_time(people, planned, course.draw_admissions(people, planned, random), random)
    return found.assign(frailty=people.frailty.to_numpy()[found.person], burden=course.burdens(people).sum(1)[found.person])


@pytest.fixture(scope="module")
def judged(stays):
    """Their truth, with the latent state beside it."""
    return course.list_truth(stays).merge(stays, left_on="stay", right_index=True)


def assert_calibrated(truth):
    """As many labels are true as their probabilities say, within four standard errors."""
    spread = np.sqrt((truth.probability * (1 - truth.probability)).sum())
    assert abs(truth.label.sum() - truth.probability.sum()) < 4 * max(spread, 1), (len(truth), truth.label.mean(), truth.probability.mean())


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_labels_are_true_as_often_as_their_probability_says_in_every_group(judged, outcome):
    of = judged[judged.outcome == outcome]
    assert len(of) > 15_000
    assert_calibrated(of)
    groups = [pd.qcut(of[name], 10, labels=False, duplicates="drop") for name in ("probability", "severity", "frailty", "burden", "p_death")]
    for group in [*groups, of.system, of.earlier.clip(upper=4)] + ([of.facility] if outcome == "RA" else []):
        for _, rows in of.groupby(group):
            assert_calibrated(rows)


def test_deaths_long_stays_and_readmissions_are_about_as_frequent_as_in_hospitals(judged):
    rate = judged.groupby("outcome").label.mean()
    assert 0.045 < rate.MT < 0.085 and 0.15 < rate.LLOS < 0.35 and 0.12 < rate.RA < 0.20


def test_the_best_reachable_auroc_of_death_is_that_of_the_literature(judged):
    of = judged[judged.outcome == "MT"]
    assert 0.88 <= metrics.compute_metrics(of.label.to_numpy(), of.probability.to_numpy())["auroc"] <= 0.93


def test_a_long_stay_is_as_probable_as_plain_counting_finds():
    """Many lengths drawn and counted, as draw_admission draws one, for stays that are short or long and lethal or not."""
    random, n = np.random.default_rng(0), 200_000
    for log_days, p_death in ((0.9, 0.0), (1.4, 0.05), (2.0, 0.5), (2.4, 0.95)):
        days = np.exp(random.normal(log_days, course.LENGTH_NOISE, n))
        days = days[days > 1]
        dies = random.random(len(days)) < p_death
        days = np.where(dies, 1 + (days - 1) * random.uniform(*course.DEATH_SHARES, len(days)), days)
        asked = days[~dies | (days >= 7)]
        p = course.long_stay_probability(np.array([log_days]), np.array([p_death]))[0]
        assert abs((asked >= 7).mean() - p) < 4 * np.sqrt(p * (1 - p) / len(asked))


def test_readmissions_have_causes(judged):
    of = judged[judged.outcome == "RA"]
    for cause in ("frailty", "burden", "severity", "severity_at_discharge"):
        low, high = of[cause].quantile([0.2, 0.8])
        assert of.label[of[cause] > high].mean() > 1.2 * of.label[of[cause] < low].mean(), cause
    assert of.label[of.facility].mean() > 1.2 * of.label[~of.facility].mean()
    assert of.label[of.earlier >= 3].mean() > 1.5 * of.label[of.earlier == 0].mean()


def test_who_is_to_come_back_does_within_30_days_and_no_one_else_does(stays):
    """And never within a day, which would be the same stay; and no stay ends on its first day, or at midnight, which means a day only."""
    admissions = stays[stays.admission]
    gap = (admissions.groupby("person").start.shift(-1) - admissions.end) / course.DAY
    assert (gap.dropna() > 1).all() and (gap[admissions.back] <= 30).all() and not (gap[~admissions.back] <= 30).any()
    assert not gap[admissions.death].notna().any()
    assert (admissions.end // course.DAY > admissions.start // course.DAY).all() and (admissions.end % course.DAY != 0).all()
    assert (stays.groupby("person").start.shift(-1) > stays.end)[stays.person.duplicated(keep="last")].all()


def test_the_first_day_does_not_tell_how_long_the_stay_will_be():
    full, long = [], []
    for chunk in range(8):
        drawn = course.draw_chunk(500, np.random.default_rng([0, chunk]))
        stays, events = drawn.stays, drawn.events
        seen = events[~events.billing & (events.time < stays.start.to_numpy()[events.stay] + course.DAY)]
        asked = drawn.truth.stay[drawn.truth.outcome == "MT"]
        full.append(np.bincount(seen.stay, minlength=len(stays))[asked])
        long.append(((stays.end - stays.start) >= 7 * course.DAY)[asked])
    assert 0.45 < metrics.compute_metrics(np.concatenate(long), np.concatenate(full).astype(float))["auroc"] < 0.57


def test_the_last_day_shows_how_ill_they_still_are_and_who_goes_to_a_facility():
    drawn = course.draw_chunk(500, np.random.default_rng(0))
    events = drawn.events.merge(drawn.stays, left_on="stay", right_index=True, suffixes=("", "_stay"))
    events = events[events.admission & ~events.death & (events.end - events.start > 2 * course.DAY)]
    last = events[events.time > events.end - course.DAY]
    values = last[(last.domain == 2) & (last.system == last.system_stay)]
    unexplained = values.severity_at_discharge - 0.5 * values.severity_stay
    assert np.corrcoef(values.value, unexplained)[0, 1] > 0.2
    weak = last[(last.domain == 0) & (last.system == course.WEAKNESS[0]) & (last.fact == course.WEAKNESS[1]) & (last.severity == 0)]
    counts = last.facility.groupby(last.stay).first().to_frame("facility").join(weak.groupby("stay").size().rename("n")).fillna({"n": 0})
    assert (counts.n[counts.facility] > 0).mean() > 0.4 > 0.1 > (counts.n[~counts.facility] > 0).mean()
    vocabulary = terminology.build(0)
    named = vocabulary.concepts.set_index("concept_id").name
    fact = vocabulary.facts[("condition", course.NAMES[course.WEAKNESS[0]], 0)][course.WEAKNESS[1]]
    assert all("whole body weakness" in named[concept] for concept in fact)


@pytest.mark.parametrize("hospital", hospitals.HOSPITALS)
def test_the_truth_stands_at_24_hours_of_stays_still_going_on_and_at_discharges(made, hospital):
    visits_ = table(made, hospital, "visit_occurrence")
    start, end = pd.to_datetime(visits_.visit_start_datetime), pd.to_datetime(visits_.visit_end_datetime)
    truth = truth_of(made, hospital)
    assert list(truth.columns) == ["subject_id", "prediction_time", "outcome", "probability"] and truth.outcome.unique().tolist() == list(OUTCOMES)
    for outcome, rows in truth.groupby("outcome"):
        time = end if outcome == "RA" else start + pd.Timedelta(hours=24)
        keyed = visits_.assign(subject_id=visits_.person_id.astype("int64"), prediction_time=time, end=end)
        joined = rows.merge(keyed, on=["subject_id", "prediction_time"], validate="one_to_one")
        assert len(joined) == len(rows) and (joined.end >= joined.prediction_time).all()


@pytest.fixture(scope="module")
def labelled(made):
    """The labels that preprocessing writes for both hospitals of `made`."""
    for hospital in hospitals.HOSPITALS:
        for stage in (persons, visits, records, deaths):
            stage.main(["--hospital", hospital])
        labels.main(["--hospital", hospital, "--outcome", *OUTCOMES])
    return made


@pytest.mark.parametrize("hospital", hospitals.HOSPITALS)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_label_of_preprocessing_has_its_probability_and_every_probability_its_label(labelled, hospital, outcome):
    found = pd.read_parquet(LABELS.at(hospital=hospital, outcome=outcome))
    truth = truth_of(labelled, hospital)
    truth = truth[truth.outcome == outcome]
    joined = found.merge(truth, on=["subject_id", "prediction_time"], how="outer", validate="one_to_one", indicator="found_in")
    assert len(joined) > 300 and (joined.found_in == "both").all()
    assert_calibrated(joined.rename(columns={"boolean_value": "label"}))


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
