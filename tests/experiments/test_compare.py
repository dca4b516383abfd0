"""The table of arms on a fabricated summary: figures, pairing, marks and refusals."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks import generator_seeds
from experiments import compare
from medrep import contract, stamps
from medrep.errors import UserError
from medrep.evaluation import comparison, metrics, significance
from medrep.tables import LABELS

PEOPLE = 60
OUTCOMES = {"MT": 0.2, "LLOS": 0.4, "RA": 0.3}


def examples_of(hospital, outcome, people=PEOPLE):
    """A hospital's labels: one to three prediction points a person, the risk shared by them."""
    chance = np.random.default_rng([len(hospital), len(outcome)])
    persons = np.repeat(np.arange(people), chance.integers(1, 4, people))
    risk = chance.normal(0, 1.5, people)[persons] + np.log(OUTCOMES.get(outcome, 0.3))
    return pd.DataFrame(
        {
            "subject_id": persons,
            "prediction_time": pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(len(persons)), "h"),
            "boolean_value": chance.random(len(persons)) < 1 / (1 + np.exp(-risk)),
            "risk": risk,
        }
    )


class Results:
    """results/ as finetune.py leaves it: rows of the summary and their prediction files."""

    def __init__(self, root):
        self.root, self.rows = root, []

    def add(
        self,
        outcome,
        hospital,
        rep,
        seed,
        noise=1.0,
        model="behrt",
        variant="",
        head="linear",
        oov="",
        label="",
        examples=None,
        trained_on="mimic",
        **other,
    ):
        """A test whose model knows the risk but for noise that is its own."""
        examples = examples_of(hospital, outcome) if examples is None else examples
        chance = np.random.default_rng([seed, *f"{rep}{variant}{label}".encode()])
        p = 1 / (1 + np.exp(-examples.risk - chance.normal(0, noise, len(examples))))
        file = self.root / "results" / trained_on / f"{model}_{head}_{rep}_{variant}_{oov}_{outcome}_{label}_{seed}_{hospital}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        table = examples.drop(columns="risk").assign(predicted_boolean_value=p >= 0.5, predicted_boolean_probability=p)
        table.sample(frac=1, random_state=seed).to_parquet(file)  # the order of rows is nobody's promise
        self.rows.append(
            {
                "trained_on": trained_on,
                "tested_on": hospital,
                "model": model,
                "head": head,
                "rep_type": rep,
                "variant": variant,
                "oov": oov,
                "outcome": outcome,
                "label": label,
                "subgroup": "",
                "seed": seed,
                "cohort": f"{hospital}-{outcome}",
                "data": hospital,
                "made_with": "a",
                "recalibration": "",
                "readable_tokens": 0.8 if rep == "none" else 1.0,
                "predictions": contract.display_path(file),
            }
            | metrics.compute_metrics(examples.boolean_value, p, examples.subject_id)
            | other
        )
        return self.rows[-1]

    def write(self):
        pd.DataFrame(self.rows).to_csv(contract.summary_file(), index=False)

    def predictions(self, row):
        return pd.read_parquet(self.root / row["predictions"]).sort_values(["subject_id", "prediction_time"], ignore_index=True)


@pytest.fixture
def results(root):
    return Results(root)


def run(*arguments):
    """The rows that comparison.csv then has."""
    compare.main([*arguments, "--replicates", "60"])
    file = contract.comparison_file()
    return pd.read_csv(file, keep_default_na=False, na_values=dict.fromkeys(("auroc", "p", "p_holm"), [""]))


def three_arms(results, outcomes=("MT",), hospitals=("mimic", "ehrshot"), seeds=(100, 200)):
    for outcome in outcomes:
        for hospital in hospitals:
            for seed in seeds:
                for rep, noise in (("none", 4), ("description", 1.1), ("medrep", 1)):
                    results.add(outcome, hospital, rep, seed, noise, oov="unk" if rep == "none" else "")
    results.write()


def test_figures_are_means_over_seeds_and_differences_are_paired_by_example(results, capsys):
    three_arms(results)
    found = run()
    assert len(found) == 6 and set(found.against) == {"behrt medrep"}
    for hospital in ("mimic", "ehrshot"):
        table = found[found.tested_on == hospital].set_index("rep_type")
        tests = {
            rep: [results.predictions(row) for row in results.rows if (row["tested_on"], row["rep_type"]) == (hospital, rep)] for rep in table.index
        }
        p = {}
        for rep, files in tests.items():
            means = metrics.compute_macro_metrics([(f.boolean_value, f.predicted_boolean_probability, f.subject_id) for f in files], 60)
            for name in ("auroc", "auroc_low", "auroc_high", "auprc", "brier", "calibration_slope"):
                assert float(table.loc[rep, name]) == pytest.approx(means[name])
            assert table.loc[rep, "seeds"] == 2
            if rep != "medrep":
                pair = significance.compare_macro_aurocs(
                    [
                        (f.boolean_value, f.predicted_boolean_probability, g.predicted_boolean_probability, f.subject_id)
                        for f, g in zip(files, tests["medrep"], strict=True)
                    ],
                    60,
                )
                for name in ("difference", "low", "high", "p", "bootstrap_low", "bootstrap_p"):
                    assert float(table.loc[rep, name]) == pytest.approx(pair[name])
                assert float(table.loc[rep, "difference"]) == pytest.approx(table.auroc[rep] - table.auroc["medrep"])
                assert table.loc[rep, "same_examples"] == "True" and int(table.loc[rep, "shared_examples"]) == sum(map(len, files))
                p[rep] = pair["p"]
        assert table.p_holm[list(p)].tolist() == pytest.approx(significance.holm_adjust(list(p.values())))
        assert table.loc["medrep", "difference"] == "" and np.isnan(table.p_holm["medrep"])
    printed = capsys.readouterr().out
    assert "MT at ehrshot, trained at mimic; differences to behrt medrep; 60 draws of persons" in printed
    assert json.loads(printed.splitlines()[-1]) | {"seconds": 0} == {"stage": "compare", "tables": 2, "arms": 3, "rows": 6, "seconds": 0}


def test_the_papers_figures_stand_beside_the_arms_they_are_of(results, capsys):
    three_arms(results, OUTCOMES)
    results.add("MT", "ehrshot", "medrep", 100, variant="frozen")
    results.add("MT", "ehrshot", "medrep", 100, variant="aug4x0.8")
    results.add("MT", "ehrshot", "none", 100, oov="ancestor")
    results.write()
    found = run().set_index(["outcome", "tested_on", "rep_type", "variant", "oov"]).paper
    assert float(found["MT", "ehrshot", "none", "", "unk"]) == 0.9021 and float(found["RA", "mimic", "medrep", "", ""]) == 0.7895
    assert found["MT", "ehrshot", "none", "", "ancestor"] == found["MT", "ehrshot", "medrep", "frozen", ""] == ""
    assert found["MT", "mimic", "description", "", ""] == ""
    assert float(found["MT", "ehrshot", "medrep", "aug4x0.8", ""]) == 0.8989
    printed = capsys.readouterr().out
    assert "Mean AUROC over MT, LLOS, RA" in printed and "arXiv 2504.08329 v1" in printed
    means = next(line for line in printed[printed.index("Mean AUROC") :].splitlines() if line.startswith("behrt none"))
    assert means.split()[3::2][:2] == ["0.853", "0.784"] and means.split()[-3:] == ["0.853", "0.725", "0.773"]
    assert max(map(len, printed.splitlines())) <= 160


@pytest.mark.parametrize("settings", ["configs/demo", "configs/demo-real"])
def test_no_figure_of_the_paper_stands_beside_other_hospitals_of_its_names(results, capsys, monkeypatch, settings):
    monkeypatch.setenv("MEDREP_CONFIGS", settings)
    three_arms(results, OUTCOMES)
    assert set(run().paper) == {""}
    printed = capsys.readouterr().out.replace(str(results.root), "")
    assert "paper" not in printed and re.search("Mean AUROC over MT, LLOS, RA\narm +mimic +ehrshot\n", printed)  # home first


def test_published_figures_are_the_papers():
    published = yaml.safe_load((contract.REPOSITORY / "codes/configs/published.yaml").read_text())
    for model, rep in (("behrt", "none"), ("behrt", "medtok"), ("medbert", "none")):
        own = np.mean([at["mimic"] for at in published["auroc"][model][rep].values()])
        assert own == pytest.approx(published["means"][model][rep]["internal"], abs=6e-5)  # the paper's own mean: no digit was mistyped


def test_rows_of_two_cohorts_are_refused_by_name(results):
    three_arms(results)
    results.rows[0]["cohort"] = "older"
    results.write()
    with pytest.raises(UserError, match=r"MT at mimic was tested on different cohorts \(mimic-MT: .*; older: behrt none\).*finetune.py"):
        run()
    assert not contract.comparison_file().exists()


def test_tests_on_data_that_changed_since_are_refused_with_the_command(results):
    """And neither those whose data are gone, nor those of an earlier version, which did not say what they were."""
    three_arms(results, hospitals=("mimic", "ehrshot", "third"))
    places = {"data": contract.trajectories_folder("ehrshot"), "labels": LABELS.at(hospital="mimic", outcome="MT")}
    for folder in places.values():
        folder.mkdir(parents=True)
        (folder / "0.parquet").write_text("1")
    for row in results.rows:
        if row["tested_on"] == "ehrshot":
            row["data"] = stamps.fingerprint(places["data"])
        if row["tested_on"] == "mimic":
            row["labels"] = stamps.fingerprint(places["labels"])
    results.write()
    assert len(run()) == 9
    (places["data"] / "0.parquet").write_text("12")
    with pytest.raises(UserError) as problem:
        run()
    assert str(problem.value) == (
        "MT at ehrshot (usedata/ehrshot/trajectories) changed since models were tested there: to make these figures anew, run the same finetune.py commands"
    )
    (places["labels"] / "0.parquet").write_text("12")
    with pytest.raises(
        UserError, match=r"MT at mimic \(usedata/mimic/labels/MT\), MT at ehrshot .* commands with --fresh, after pretrain.py --fresh"
    ):
        run()
    for folder in places.values():
        shutil.rmtree(folder)
    assert len(run()) == 9


def test_labels_that_differ_on_shared_examples_are_refused(results):
    labels = examples_of("ehrshot", "MT")
    results.add("MT", "ehrshot", "medrep", 100, examples=labels)
    turned = labels.assign(boolean_value=labels.boolean_value ^ (np.arange(len(labels)) == 3))
    results.add("MT", "ehrshot", "name", 100, examples=turned)
    results.write()
    with pytest.raises(UserError, match="MT at ehrshot, behrt name and behrt medrep: 1 of .* shared examples have another label"):
        run()


def test_all_missing_files_are_named_at_once(results):
    three_arms(results)
    for row in results.rows[:2]:
        (results.root / row["predictions"]).unlink()
    with pytest.raises(UserError) as problem:
        run()
    assert all(f"{row['predictions']} is missing; experiments/finetune.py writes it" in str(problem.value) for row in results.rows[:2])


def test_predictions_of_another_run_than_the_summary_are_refused(results):
    three_arms(results)
    file = results.root / results.rows[0]["predictions"]
    table = pd.read_parquet(file)
    table.assign(predicted_boolean_probability=table.predicted_boolean_probability.to_numpy()[::-1]).to_parquet(file)
    with pytest.raises(UserError, match="is not what results/summary.csv was made from"):
        run()


def test_predictions_that_are_not_what_was_written_are_refused(results):
    """Also where AUROC stays what it was: here of whom they are."""
    three_arms(results)
    row = results.rows[0]
    old, folder = results.root / row["predictions"], results.root / "results" / "mimic" / "a"
    file, metrics_file = contract.predictions_file(folder, "mimic"), contract.metrics_file(folder, "mimic")
    folder.mkdir()
    old.rename(file)
    metrics_file.write_text("[]")
    stamps.Stamp(metrics_file, beside=[file]).record()
    row["predictions"] = contract.display_path(file)
    results.write()
    assert len(run()) == 6
    pd.read_parquet(file).assign(subject_id=lambda table: table.subject_id + 1000).to_parquet(file)
    with pytest.raises(UserError, match=r"results/mimic/a/predictions_mimic.parquet has .* makes it anew"):
        run()


def test_without_a_summary_it_is_said_who_writes_it(root):
    with pytest.raises(UserError, match="summary.csv is missing; experiments/finetune.py writes it"):
        compare.main([])


def test_an_arm_of_other_persons_is_compared_on_the_shared_examples_and_marked(results, capsys):
    """The oracle is tested on a fifth of the external hospital, another one for every seed."""
    labels = examples_of("ehrshot", "MT")
    for seed in (100, 200, 300):
        results.add("MT", "ehrshot", "medrep", seed)
        if seed < 300:
            part = labels[labels.subject_id % 3 == seed // 100 - 1]
            results.add("MT", "ehrshot", "medrep", seed, noise=0.5, variant="oracle", trained_on="ehrshot", examples=part)
    results.write()
    found = run().set_index("variant")
    parts = [results.predictions(row) for row in results.rows if row["variant"] == "oracle"]
    wholes = [results.predictions(row) for row in results.rows if row["variant"] == "" and row["seed"] < 300]
    pairs = []
    for part, whole in zip(parts, wholes, strict=True):
        there = whole.set_index(["subject_id", "prediction_time"]).predicted_boolean_probability
        pairs.append(
            (
                part.boolean_value,
                part.predicted_boolean_probability,
                np.array([there[key] for key in zip(part.subject_id, part.prediction_time, strict=True)]),
                part.subject_id,
            )
        )
    assert float(found.difference["oracle"]) == pytest.approx(significance.compare_macro_aurocs(pairs)["difference"])
    assert float(found.p["oracle"]) == pytest.approx(significance.compare_macro_aurocs(pairs)["p"])
    assert found.same_examples["oracle"] == "False" and float(found.shared_examples["oracle"]) == sum(map(len, parts))
    printed = capsys.readouterr().out
    assert f"† behrt medrep oracle: on the {sum(map(len, parts))} examples that both were tested on (seeds: 2)" in printed and ")†" in printed
    assert "trained at ehrshot, mimic" in printed


def test_arms_without_a_shared_example_are_shown_and_not_compared(results, capsys):
    labels = examples_of("ehrshot", "MT")
    results.add("MT", "ehrshot", "medrep", 100, examples=labels[labels.subject_id < 30])
    results.add("MT", "ehrshot", "name", 100, examples=labels[labels.subject_id >= 30])
    results.write()
    found = run().set_index("rep_type")
    assert found.difference["name"] == "" and found.auroc["name"] > 0 and np.isnan(found.p["name"])
    assert "behrt name: no example in common with behrt medrep" in capsys.readouterr().out


def test_a_test_that_came_to_nothing_is_shown_with_its_reason(results, capsys):
    labels = examples_of("ehrshot", "MT")
    results.add("MT", "ehrshot", "medrep", 100)
    results.add("MT", "ehrshot", "medrep", 200)
    results.add("MT", "ehrshot", "name", 100)
    results.add("MT", "ehrshot", "name", 200, examples=labels.assign(boolean_value=False))
    results.add("MT", "ehrshot", "none", 100, examples=labels.assign(boolean_value=False), oov="unk")
    # predictions are there, but of a model that had one class to learn from: they are no test of it
    results.rows[-1] |= {"reason": "one class to learn from", "auroc": None}
    results.write()
    found = run().set_index("rep_type")
    assert np.isnan(found.auroc["none"]) and found.auroc["name"] == pytest.approx(results.rows[2]["auroc"])
    assert found.shared_seeds["name"] == "1" and found.same_examples["name"] == "False"
    printed = capsys.readouterr().out
    assert "behrt none: one class to learn from" in printed and "behrt name: no positives (1 of 2 seeds)" in printed
    assert "nan" not in printed.lower()


def test_the_reference_is_the_plainest_that_has_the_words(results, capsys):
    three_arms(results, hospitals=("ehrshot",))
    for model, rep in (("logreg", "tokens"), ("gbm", "rollup")):
        results.add("MT", "ehrshot", rep, 100, model=model, head="")
    results.add("MT", "ehrshot", "medrep", 100, variant="frozen")
    results.add("MT", "ehrshot", "medrep", 100, variant="frozen+shots=8")
    results.write()
    for words, name in (
        ("medrep", "behrt medrep"),
        ("logreg", "logreg tokens"),
        ("rollup gbm", "gbm rollup"),
        ("frozen", "behrt medrep frozen"),
        ("shots=8", "behrt medrep frozen+shots=8"),
    ):
        assert set(run("--against", words).against) == {name}
    with pytest.raises(UserError, match="--against medtok: no arm has these words; there are behrt none; behrt description; behrt medrep;"):
        run("--against", "medtok")
    whole = contract.comparison_file().read_bytes()
    capsys.readouterr()
    compare.main(["--variant", "frozen", "--replicates", "60"])
    assert "behrt medrep frozen" in (out := capsys.readouterr().out) and "logreg tokens" not in out and "shown and not written" in out
    assert contract.comparison_file().read_bytes() == whole  # a part does not take the place of all
    assert run().rep_type.tolist() == ["none", "description", "medrep", "medrep", "medrep", "tokens", "rollup"]
    with pytest.raises(UserError, match="--outcome Fx: results/summary.csv has 'MT'"):
        run("--outcome", "Fx")


def test_a_run_that_was_given_says_what_it_is(results, capsys):
    three_arms(results, hospitals=("ehrshot",))
    for variant in ("evaluated-0a1b2c3d", "cls+evaluated-4e5f6a7b"):
        results.add("MT", "ehrshot", "medrep", 100, variant=variant)
    results.write()
    run()
    printed = capsys.readouterr().out
    assert "\nevaluated-0a1b2c3d: a finished run that finetune.py --evaluate-only was given" in printed
    assert "\nevaluated-4e5f6a7b: a finished run" in printed and printed.count("a finished run") == 2
    assert max(map(len, printed.splitlines())) <= 160
    run("--against", "evaluated-4e5f6a7b")  # by the name that the table has
    assert "differences to behrt medrep cls+evaluated-4e5f6a7b" in capsys.readouterr().out


def test_seeds_that_were_trained_in_different_ways_are_no_arm(results):
    three_arms(results)
    results.rows[0]["made_with"] = "b"
    results.write()
    with pytest.raises(UserError, match=r"behrt none was trained in different ways for MT at mimic \(a: seeds 200; b: seeds 100\)"):
        run()


def test_calibration_before_and_after_is_shown_as_means_over_seeds(results, capsys):
    three_arms(results)
    for seed, slope in ((100, 0.4), (200, 0.6)):
        for when, value in (("before", slope), ("after", 1.0)):
            results.add("MT", "ehrshot", "medrep", seed, recalibration=f"{when} 100", calibration_slope=value)
    results.write()
    run()
    table = capsys.readouterr().out.split("Recalibration")[1].splitlines()
    heads, cells = table[1].split(), table[2].split()
    assert cells[:5] == ["behrt", "medrep", "MT", "ehrshot", "100"] and cells[5:7] == ["0.500", "1.000"]
    assert heads[:8] == ["arm", "outcome", "at", "labels", "slope", "before", "slope", "after"]


def test_subgroups_and_recalibrated_rows_are_no_arms(results):
    three_arms(results, hospitals=("ehrshot",))
    results.rows += [results.rows[0] | {"subgroup": "sex=F", "predictions": ""}, results.rows[0] | {"recalibration": "before 100", "predictions": ""}]
    results.write()
    assert len(run()) == 3


def test_two_rows_for_one_seed_are_refused(results):
    three_arms(results, hospitals=("ehrshot",))
    results.rows.append(results.rows[0])
    results.write()
    with pytest.raises(UserError, match="behrt none has two rows for one seed"):
        run()


def test_phenotypes_are_one_outcome_of_the_mean_over_them(results, capsys):
    """Three phenotypes, of which one has no positives and is left out; a person may be left out of one of them."""
    labels = examples_of("ehrshot", "Pheno")
    for rep in ("medrep", "name"):
        for seed in (100, 200):
            rows = [
                results.add("Pheno", "ehrshot", rep, seed, label="Shock", examples=labels),
                results.add("Pheno", "ehrshot", rep, seed, label="COPD", examples=labels.assign(boolean_value=~labels.boolean_value)[5:]),
                results.add("Pheno", "ehrshot", rep, seed, label="Gout", examples=labels.assign(boolean_value=False)),
            ]
            areas = [row["auroc"] for row in rows if row["auroc"] is not None]
            results.rows.append(rows[0] | {"label": "macro", "auroc": np.mean(areas), "predictions": "", "reason": "without Gout (no positives)"})
    results.write()
    found = run().set_index("rep_type")
    files = {
        rep: [results.predictions(row) for row in results.rows if row["rep_type"] == rep and row["label"] in ("Shock", "COPD")] for rep in found.index
    }
    pairs = [
        (f.boolean_value, f.predicted_boolean_probability, g.predicted_boolean_probability, f.subject_id)
        for f, g in zip(files["name"], files["medrep"], strict=True)
    ]
    expected = significance.compare_macro_aurocs(pairs)
    assert float(found.difference["name"]) == pytest.approx(expected["difference"]) and found.p["name"] == pytest.approx(expected["p"])
    macro = [row["auroc"] for row in results.rows if row["label"] == "macro" and row["rep_type"] == "name"]
    assert found.auroc["name"] == pytest.approx(np.mean(macro)) and found.seeds["name"] == 2
    assert "behrt name: without Gout (no positives)" in capsys.readouterr().out
    # without the phenotypes' own files there is the macro row's figure, and no test
    results.rows = [row for row in results.rows if row["label"] == "macro"]
    results.write()
    found = run().set_index("rep_type")
    assert found.auroc["name"] == pytest.approx(np.mean(macro)) and np.isnan(found.p["name"]) and found.auroc_low["name"] == ""


def test_every_arm_is_compared_with_the_simplest_one_that_was_trained_where_it_was(results):
    """pooled none is simpler than learned codes and counts; a model of another hospital is compared with none of ours."""
    arms = (("pooled", "none", 3), ("logreg", "tokens", 2), ("behrt", "none", 2.5), ("behrt", "medrep", 1))
    for seed in (100, 200):
        for model, rep, noise in arms:
            results.add(
                "MT", "ehrshot", rep, seed, noise, model=model, head="linear" if model == "behrt" else "", oov="unk" if model == "behrt" else ""
            )
        results.add("MT", "ehrshot", "medrep", seed, 0.5, variant="oracle", trained_on="ehrshot")
    results.write()
    found = run().astype({name: str for name in ("simplest", "over_simplest_p")})
    own = found[found.trained_on == "mimic"].set_index(["model", "rep_type"])
    tests = {}
    for row in results.rows:
        if row["trained_on"] == "mimic":
            tests.setdefault((row["model"], row["rep_type"]), []).append(results.predictions(row))
    p_values = {}
    for arm, files in tests.items():
        if arm == ("pooled", "none"):
            assert own.loc[arm, "simplest"] == own.loc[arm, "over_simplest_p"] == ""
            continue
        pairs = [
            (f.boolean_value, f.predicted_boolean_probability, g.predicted_boolean_probability, f.subject_id)
            for f, g in zip(files, tests["pooled", "none"], strict=True)
        ]
        expected = significance.compare_macro_aurocs(pairs)
        assert own.loc[arm, "simplest"] == "pooled none"
        for end, name in (("", "difference"), ("_low", "low"), ("_high", "high"), ("_p", "p")):
            assert float(own.loc[arm, f"over_simplest{end}"]) == pytest.approx(expected[name])
        p_values[arm] = expected["p"]
    highest = 0.0
    for place, (arm, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):  # Holm, step by step
        highest = max(highest, min(1.0, p * (len(p_values) - place)))
        assert float(own.loc[arm, "over_simplest_p_holm"]) == pytest.approx(highest)
    assert found[found.trained_on == "ehrshot"].simplest.tolist() == [""]


def test_the_same_command_twice_gives_the_same_file(results):
    three_arms(results)
    run()
    file = contract.comparison_file()
    once = file.read_bytes()
    results.rows = results.rows[::-1]
    results.write()
    again = run()
    assert sorted(file.read_text().splitlines()) == sorted(once.decode().splitlines()) and len(again) == 6


def test_a_wide_table_fits_160_columns(results, capsys):
    """The longest names there are, thousands of examples."""
    row = dict.fromkeys(comparison.COMPARISON_COLUMNS) | {
        "outcome": "Sepsis",
        "tested_on": "ehrshot",
        "trained_on": "mimic",
        "model": "behrt-de",
        "head": "linear",
        "rep_type": "description",
        "variant": "frozen+shots=128",
        "oov": "",
        "seeds": 3,
        "n": 123_456.0,
        "positives": 12_345.0,
        "auroc": 0.8,
        "auroc_low": 0.7,
        "auroc_high": 0.9,
        "auprc": 0.3,
        "brier": 0.1,
        "calibration_slope": 1.01,
        "readable_tokens": 1.0,
        "against": "behrt medrep",
        "difference": 0.01,
        "low": -0.01,
        "high": 0.03,
        "p": 0.04,
        "p_holm": 0.4,
        "same_examples": False,
        "shared_seeds": 3,
        "shared_examples": 123_456,
        "paper": 0.8,
        "reason": "",
    }
    text = compare.format_table(pd.DataFrame([row]), 1000)
    assert max(map(len, text.splitlines())) <= 160, text


# ---- scores of others ---------------------------------------------------------------------------------------------------


def write_scores(root, **columns):
    """A score that knows the risk, of every second example of MT at ehrshot, and one of a person who was not tested."""
    examples = examples_of("ehrshot", "MT").iloc[::2]
    known = 1 / (1 + np.exp(-examples.risk - np.random.default_rng(1).normal(0, 0.5, len(examples))))
    scores = examples[["subject_id", "prediction_time"]].assign(score=known, name="APACHE")
    other = pd.DataFrame({"subject_id": [10**6], "prediction_time": [pd.Timestamp("2020-01-01")], "score": [0.5], "name": ["APACHE"]})
    scores = pd.concat([scores, other], ignore_index=True).assign(**columns)
    scores.to_parquet(root / "scores.parquet")
    return scores


def test_a_clinical_score_is_a_row_on_the_examples_that_have_it(results, root, capsys):
    three_arms(results)
    scores = write_scores(root, hospital="ehrshot")
    found = run("--reference", str(root / "scores.parquet"))
    table = found[found.tested_on == "ehrshot"].set_index("rep_type")
    files = [results.predictions(row) for row in results.rows if (row["tested_on"], row["rep_type"]) == ("ehrshot", "medrep")]
    both = [f.merge(scores, on=["subject_id", "prediction_time"]) for f in files]
    alone = metrics.compute_macro_metrics([(f.boolean_value, f.score, f.subject_id) for f in both], 60)
    for name in ("auroc", "auroc_low", "auroc_high", "auprc", "brier"):
        assert float(table.loc["score", name]) == pytest.approx(alone[name])
    pair = significance.compare_macro_aurocs([(f.boolean_value, f.score, f.predicted_boolean_probability, f.subject_id) for f in both], 60)
    for name in ("difference", "low", "high", "p"):
        assert float(table.loc["score", name]) == pytest.approx(pair[name])
    assert table.loc["score", "model"] == "APACHE" and table.loc["score", "trained_on"] == ""
    assert float(table.loc["score", "n"]) == len(both[0]) and float(table.loc["score", "positives"]) == both[0].boolean_value.sum()
    assert table.loc["score", "same_examples"] == "False" and int(table.loc["score", "shared_examples"]) == sum(map(len, both))
    assert set(found[found.tested_on == "mimic"].rep_type) == {"none", "description", "medrep"}  # it is of the other hospital
    ours = table.p.dropna().astype(float).tolist()
    assert sorted(table.p_holm.dropna()) == pytest.approx(sorted(significance.holm_adjust(ours)))
    printed = capsys.readouterr().out
    assert "† APACHE score: on the" in printed and "APACHE score: on the 50% of the examples that have a score" in printed


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"score": "high"}, "60 of 60 rows have a score that is no number"),
        ({"prediction_time": pd.Timestamp("1999-01-01"), "subject_id": range(60)}, "APACHE has no subject_id and prediction_time of any example"),
        ({"hospital": "third"}, "APACHE has no subject_id and prediction_time of any example"),
        ({"outcome": "LLOS"}, "APACHE has no subject_id and prediction_time of any example"),
        ({"subject_id": 1, "prediction_time": pd.Timestamp("1999-01-01")}, "59 rows tell the score of a person and time again"),
    ],
)
def test_scores_that_can_not_be_used_are_refused(results, root, columns, words):
    three_arms(results)
    assert len(write_scores(root)) == 60
    write_scores(root, **columns)
    with pytest.raises(UserError, match=words):
        run("--reference", str(root / "scores.parquet"))
    pd.DataFrame({"subject_id": [1]}).to_parquet(root / "scores.parquet")
    with pytest.raises(UserError, match="lacks prediction_time, score, name"):
        run("--reference", str(root / "scores.parquet"))
    with pytest.raises(UserError, match="is missing: a parquet file of"):
        run("--reference", str(root / "nothing.parquet"))


def test_the_benchmark_of_generators_reads_what_is_written(results, monkeypatch):
    three_arms(results, outcomes=("MT", "RA"))
    monkeypatch.setattr(generator_seeds, "run_command", lambda root, python, script, *arguments: compare.main([*arguments, "--replicates", "60"]))
    found = generator_seeds.read_comparison(results.root, "behrt none", ["RA"])
    assert len(found) == 6 and set(found.outcome) == {"RA"} and set(found.against) == {"behrt none"} and set(found.generator) == {results.root.name}
    assert (found[found.rep_type == "none"].difference.isna() | (found[found.rep_type == "none"].difference == 0)).all()
    assert found[found.rep_type != "none"][["difference", "low", "high", "p"]].notna().all(axis=None)
