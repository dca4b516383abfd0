"""What of another hospital can be read, on hospitals made of nothing, against plain loops."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from experiments import vocabulary_coverage as coverage
from medrep import contract, stamps, storage
from medrep.contract import DOMAINS
from medrep.errors import UserError
from medrep.evaluation import coverage as shares
from medrep.patients import sequences
from medrep.tables import DECILES
from medrep.vectors import concept_index, markers
from medrep.vocabulary import token_vocabulary

from ..medrep.evaluation.plain_figures import slow_quartile

HOME = ["1", "2", "3_0", "4", "5_1", "9"]
EXTERNAL = ["1", "2_7", "3_0", "3_5", "6", "6_2", "7", "8", "5"]
SEEN = {"1", "2", "3_0", "4", "5_1"}  # 9 is of test persons alone
IS_A = [(6, 10), (10, 4), (7, 9), (8, 3), (3, 1)]  # 6 is two steps below 4; 7 below what was never seen in pretraining
CODES = {
    "1": "known",
    "2_7": "plain",
    "3_0": "known",
    "3_5": "ancestor",
    "6": "ancestor",
    "6_2": "ancestor",
    "7": "lost",
    "8": "ancestor",
    "5": "lost",
}
VECTORS = {"1": "own", "2_7": "plain", "3_0": "ancestor", "3_5": "ancestor", "6": "lost", "6_2": "own", "7": "own", "8": "ancestor", "5": "lost"}
KIND_OF_VOCABULARY = {1: "SNOMED", 2: "LOINC", 3: "LOINC", 6: "RxNorm", 7: "SNOMED"}


def write_concepts(root):
    folder = storage.make_folder(root / "data" / "concepts")
    header = "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tconcept_code\n"
    (folder / "CONCEPT.csv").write_text(header + "".join(f"{c}\tname\tx\t{v}\tx\tx\n" for c, v in KIND_OF_VOCABULARY.items()))
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text("concept_id_1\tconcept_id_2\trelationship_id\n" + "".join(f"{a}\t{b}\tIs a\n" for a, b in IS_A))


def write_vectors(rep="medrep", ids=("1", "2", "6_2", "7")):
    concept_index.write_concept_index(list(ids))
    with markers.write_marked(contract.concept_array_file(rep)) as part, open(part, "wb") as file:
        np.save(file, np.ones((len(ids), 4), dtype=np.float32))


@pytest.fixture
def hospitals(small_hospital, root):
    home = small_hospital("mimic", persons=20, tokens=HOME)
    special = len(token_vocabulary.SPECIAL_TOKENS)
    seen = tuple(count if token in SEEN else 0 for token, count in zip(home.tokens, home.counts, strict=True))
    replace(home, pretraining_counts=seen).save(contract.vocabulary_file("mimic"))
    small_hospital("ehrshot", persons=40, tokens=EXTERNAL, seed=1)
    write_concepts(root)
    write_vectors()
    assert special == 7
    return root


def run(*flags):
    coverage.main(["--home", "mimic", "--external", "ehrshot", *flags])
    return pd.read_csv(contract.coverage_files("mimic", "ehrshot")["shares"])


def slow_shares():
    """{(by, part, reading, kind): (events, concepts)} counted event by event."""
    trajectories, words = sequences.Trajectories("ehrshot"), token_vocabulary.load_hospital_vocabulary("ehrshot").tokens
    events, distinct = Counter(), {}
    for token, domain in zip(trajectories.token.tolist(), trajectories.domain.tolist(), strict=True):
        name = words[token]
        kind_of_vocabulary = KIND_OF_VOCABULARY.get(int(name.split("_")[0]), "unknown")
        for part in (("all", "all"), ("domain", DOMAINS[domain - 1]), ("vocabulary", kind_of_vocabulary)):
            for key in ((*part, "codes", CODES[name]), (*part, "medrep", VECTORS[name])):
                events[key] += 1
                distinct.setdefault(key, set()).add(name)
    return {key: (n, len(distinct[key])) for key, n in events.items()}


def test_shares_are_those_of_a_count_event_by_event_and_add_up_to_all(hospitals, monkeypatch, capsys):
    monkeypatch.setattr(shares, "EVENTS_PER_CHUNK", 100)  # the events are taken some at a time: it must not show
    table = run("--rep-type", "medrep", "none")
    found = {(r.by, r.part, r.reading, r.kind): (r.events, r.concepts) for r in table.itertuples() if r.events}
    assert found == slow_shares()
    total = sum(token_vocabulary.load_hospital_vocabulary("ehrshot").counts)
    for (by, part, reading), of in table.groupby(["by", "part", "reading"]):
        assert set(of.kind) == set(coverage.kinds_of_input(reading))
        kept, lost = of[of.kind != "lost"], of[of.kind == "lost"]
        for what in ("events", "concepts"):
            assert kept[f"{what}_share"].sum() + lost[f"{what}_share"].sum() == pytest.approx(1), (by, part, reading)
    for by in ("all", "domain", "vocabulary"):
        assert table[(table.by == by) & (table.reading == "codes")].events.sum() == total
    assert contract.coverage_files("mimic", "ehrshot")["picture"].read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "share of events" in said and "mimic knows 5" in said
    assert "AUROC by unknown share comes after finetuning: there is no results/summary.csv yet" in said
    figures = json.loads(said.splitlines()[-1])
    known = sum(n for (by, _, reading, kind), (n, _) in slow_shares().items() if (by, reading, kind) == ("all", "codes", "known"))
    assert figures["known_ehrshot"] == pytest.approx(known / total, abs=1e-4)
    assert not list(contract.coverage_files("mimic", "ehrshot")["shares"].parent.glob("*unfinished*"))


def test_arms_that_read_alike_are_shown_once_and_all_are_written(hospitals, capsys):
    with markers.write_marked(contract.concept_array_file("name")) as part, open(part, "wb") as file:
        np.save(file, np.zeros((4, 4), dtype=np.float32))
    table = run()
    assert set(table.reading) == {"codes", "name", "medrep"}
    assert "name, medrep" in capsys.readouterr().out


def test_without_concepts_and_representation_there_are_codes_of_unknown_vocabularies(hospitals, capsys):
    (hospitals / "data" / "concepts").rename(hospitals / "elsewhere")
    storage.remove_path(contract.representation_folder())
    table = run()
    assert set(table.reading) == {"codes"} and set(table[table.by == "vocabulary"].part) == {"unknown"}
    assert (table[table.kind == "ancestor"].events == 0).all()
    said = capsys.readouterr().out
    assert "codes only" in said and "data/concepts is not there" in said


def test_what_is_missing_or_does_not_fit_is_named(hospitals):
    with pytest.raises(UserError, match="concept_representation_random.npy is missing"):
        run("--rep-type", "random")
    with pytest.raises(UserError, match="usedata/other/vocabulary.json is missing"):
        coverage.main(["--external", "other"])
    theirs = token_vocabulary.load_hospital_vocabulary("ehrshot")
    replace(theirs, counts=tuple(2 * n for n in theirs.counts)).save(contract.vocabulary_file("ehrshot"))
    with pytest.raises(UserError, match="run preprocessing/trajectories.py again"):
        run()


# ---- AUROC -----------------------------------------------------------------------------------------------------------

COLUMNS = [
    "trained_on",
    "tested_on",
    "model",
    "head",
    "rep_type",
    "variant",
    "oov",
    "outcome",
    "label",
    "subgroup",
    "seed",
    "cohort",
    "recalibration",
    "predictions",
]


def write_test(seed, model="behrt", probabilities=None, max_length=16, persons=None, **changes):
    """A finished run's config.yaml and predictions: one example a person, half a second after one of their events."""
    trajectories, random = sequences.Trajectories("ehrshot"), np.random.default_rng(3)
    ids = np.asarray(trajectories.person_id) if persons is None else persons
    places = trajectories.person_start + random.integers(0, 10**6, len(ids)) % (trajectories.person_stop - trajectories.person_start)
    times = np.asarray(trajectories.time[places])
    labels = random.random(len(ids)) < 0.4
    probabilities = np.random.default_rng(seed).random(len(ids)) if probabilities is None else probabilities
    folder = storage.make_folder(contract.ROOT / "results" / "mimic" / "finetuning" / f"{model}_none{seed}")
    if max_length:
        (folder / "config.yaml").write_text(f"run: {{seed: {seed}}}\nmodel: {{max_length: {max_length}}}\n")
    file = folder / "predictions_ehrshot.parquet"
    # an event in the second of the prediction may lie after it and is not read
    stamps = times.astype("datetime64[s]").astype("datetime64[us]") + np.timedelta64(500_000, "us")
    pq.write_table(
        pa.table(
            {
                "subject_id": ids,
                "prediction_time": stamps,
                "boolean_value": labels,
                "predicted_boolean_value": probabilities >= 0.5,
                "predicted_boolean_probability": probabilities,
            }
        ),
        file,
    )
    row = {
        "trained_on": "mimic",
        "tested_on": "ehrshot",
        "model": model,
        "head": "linear",
        "rep_type": "none",
        "oov": "unk",
        "outcome": "MT",
        "seed": seed,
        "cohort": "abc",
        "predictions": str(file.relative_to(contract.ROOT)),
        **changes,
    }
    return row, times, labels, probabilities


def write_summary(*rows):
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    table.to_csv(contract.summary_file(), index=False)


def slow_unknown_share(person, time, max_length):
    trajectories, words = sequences.Trajectories("ehrshot"), token_vocabulary.load_hospital_vocabulary("ehrshot").tokens
    row = np.asarray(trajectories.person_id).tolist().index(person)
    read = [words[trajectories.token[i]] for i in range(trajectories.person_start[row], trajectories.person_stop[row]) if trajectories.time[i] < time]
    read = read[-(max_length - 2) :] if max_length else read
    return sum(name not in SEEN for name in read) / len(read) if read else 0.0


def auroc_table():
    return pd.read_csv(contract.coverage_files("mimic", "ehrshot")["auroc"], keep_default_na=False, dtype={"quartile": int})


@pytest.mark.parametrize("model, max_length", [("behrt", 16), ("logreg", None)])
def test_auroc_by_quartile_is_that_of_loops_and_the_mean_over_seeds(hospitals, capsys, model, max_length):
    tests = [write_test(seed, model=model, max_length=max_length) for seed in (100, 200)]
    elsewhere = [
        tests[0][0] | change
        for change in (
            {"subgroup": "sex=F"},
            {"recalibration": "after 100"},
            {"tested_on": "mimic"},
            {"trained_on": "ehrshot"},
            {"label": "macro", "predictions": ""},
        )
    ]
    write_summary(*(row for row, *_ in tests), *elsewhere)
    run("--rep-type", "none")
    _, times, labels, _ = tests[0]
    ids = np.asarray(sequences.Trajectories("ehrshot").person_id).tolist()
    shares = [slow_unknown_share(person, time, max_length) for person, time in zip(ids, times.tolist(), strict=True)]
    quartile = np.array([slow_quartile(share, shares) for share in shares])
    table = auroc_table()
    assert table.quartile.tolist() == [1, 2, 3, 4] and (table.seeds == 2).all() and table.n.sum() == len(ids)
    for row in table.itertuples():
        of = quartile == row.quartile
        assert (row.n, row.positives) == (of.sum(), labels[of].sum())
        assert (row.share_from, row.share_to) == pytest.approx((min(np.array(shares)[of]), max(np.array(shares)[of])))
        assert float(row.auroc) == pytest.approx(np.mean([roc_auc_score(labels[of], p[of]) for *_, p in tests]))
    said = capsys.readouterr().out
    assert "quartile 4" in said and "nan" not in said.lower() and "have no predictions" not in said
    assert "results/coverage_auroc_mimic_ehrshot.csv" in said


def test_a_quartile_without_both_classes_says_so_and_an_empty_one_too(hospitals, capsys):
    row, *_ = write_test(100)
    file = contract.ROOT / row["predictions"]
    table = pq.read_table(file).to_pandas()
    table["boolean_value"], table["prediction_time"] = False, pd.Timestamp(0, unit="s")  # before all events: nothing is read
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), file)
    write_summary(row)
    run("--rep-type", "none")
    found = auroc_table()
    assert found.reason.tolist() == ["no positives", "no examples", "no examples", "no examples"] and (found.auroc == "").all()
    assert found.n.tolist() == [40, 0, 0, 0]
    said = capsys.readouterr().out
    assert "no positives (n 40)" in said and "equal unknown shares" in said and "nan" not in said.lower()


def test_arms_outcomes_and_cohorts_are_kept_apart(hospitals):
    rows = [
        write_test(seed, model=model, **changes)[0]
        for seed, model, changes in [
            (100, "behrt", {}),
            (200, "behrt", {"cohort": "def"}),
            (300, "behrt", {"oov": "ancestor"}),
            (400, "medbert", {}),
            (500, "behrt", {"outcome": "RA"}),
        ]
    ]
    write_summary(*rows)
    run("--rep-type", "none")
    assert len(auroc_table()) == 5 * 4


def test_predictions_that_are_not_what_was_written_are_refused(hospitals):
    row, *_ = write_test(100)
    write_summary(row)
    file = hospitals / row["predictions"]
    metrics_file = contract.metrics_file(file.parent, "ehrshot")
    metrics_file.write_text("[]")
    stamps.Stamp(metrics_file, beside=[file]).record()
    run("--rep-type", "none")
    table = pq.read_table(file)
    pq.write_table(table.set_column(2, "boolean_value", [pa.array([True, False] * (len(table) // 2), pa.bool_())]), file)
    with pytest.raises(UserError, match="predictions_ehrshot.parquet has .* makes it anew"):
        run("--rep-type", "none")


def test_a_hospital_whose_deciles_are_of_another_home_is_refused(hospitals):
    for hospital in ("mimic", "ehrshot"):
        folder = storage.make_folder(DECILES.at(hospital=hospital))
        stamps.Stamp(folder, settings={"home": hospital, "decile_edges": "home"}).record()
    with pytest.raises(UserError, match="the deciles of ehrshot are not those of mimic"):
        run("--rep-type", "none")


def test_tests_without_predictions_or_of_other_persons_are_left_out_by_name(hospitals, capsys):
    kept, *_ = write_test(100)
    gone, *_ = write_test(200)
    (hospitals / gone["predictions"]).unlink()
    other, *_ = write_test(300, persons=np.arange(40) + 5)
    write_summary(kept, gone, other, kept | {"seed": 400, "predictions": ""})
    run("--rep-type", "none")
    said = capsys.readouterr().out
    assert "1 of 4 tests at ehrshot have no predictions" in said
    assert f"{gone['predictions']} is missing" in said and f"{other['predictions']} is of other persons" in said
    assert (auroc_table().seeds == 1).all()
    write_summary(kept | {"tested_on": "elsewhere"})
    run("--rep-type", "none")
    assert "has no test of a model of mimic at ehrshot" in capsys.readouterr().out
