"""EHRSHOT's means and intervals beside plain second implementations, and what becomes a row of its table."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from medrep import contract, storage
from medrep.cdm.ehrshot import FINDINGS, GROUPS, TASKS
from medrep.errors import UserError
from medrep.evaluation import ehrshot_table, results

from ...small_ehrshot import write_reference

KS = (1, 8, -1)


def random_rows(seed, tasks=TASKS, ks=KS, replicates=3, **more):
    """RESULT_COLUMNS with figures by chance, of one arm."""
    chance = np.random.default_rng(seed)
    rows = [
        {
            "labeling_function": task.name,
            "sub_task": task.sub_task,
            "replicate": replicate,
            "k": k,
            "score": score,
            "value": chance.random(),
            "std": chance.random() / 50 if k == -1 else None,
            "lower": 0.4,
            "upper": 0.6,
        }
        for task in tasks
        for k in ks
        for replicate in range(replicates)
        for score in ("auroc", "auprc")
    ]
    return pd.DataFrame(rows).assign(**{"model": "ours", "head": "lr", "arm": "ours lr", "mean": 0.5, "tested": 1.0, "note": ""} | more)


def pick(table, **wanted):
    for name, value in wanted.items():
        table = table[table[name] == value]
    assert len(table) == 1, wanted
    return table.iloc[0]


def test_means_are_over_replicates_then_tasks_then_groups():
    rows = random_rows(1)
    tasks = ehrshot_table.task_means(rows)
    groups = ehrshot_table.group_means(tasks)
    for score in ("auroc", "auprc"):
        for k in KS:
            of_groups = []
            for group, names in GROUPS.items():
                of_tasks = []
                for sub in [sub for name in names for sub in (FINDINGS if name == "chexpert" else [name])]:
                    values = [row.value for row in rows.itertuples() if (row.sub_task, row.score, row.k) == (sub, score, k)]
                    mean = sum(values) / 3
                    found = pick(tasks, name=sub, score=score, k=k)
                    assert found.value == pytest.approx(mean) and found.replicates == 3
                    assert found["std"] == pytest.approx(math.sqrt(sum((value - mean) ** 2 for value in values) / 2))
                    of_tasks.append(mean)
                found = pick(groups, level="group", name=group, score=score, k=k)
                assert found.value == pytest.approx(sum(of_tasks) / len(of_tasks)) and found.tasks == len(of_tasks)
                of_groups.append(found.value)
            assert pick(groups, level="all", score=score, k=k).value == pytest.approx(sum(of_groups) / 4)


def test_a_groups_interval_is_that_of_a_mean_of_independent_tasks_and_of_few_shots_there_is_none():
    rows = random_rows(2)
    groups = ehrshot_table.group_means(ehrshot_table.task_means(rows))
    for group, names in GROUPS.items():
        subs = [sub for name in names for sub in (FINDINGS if name == "chexpert" else [name])]
        variance = 0.0
        for sub in subs:
            part = rows[(rows.sub_task == sub) & (rows.score == "auroc") & (rows.k == -1)]
            variance += float(part["std"].astype(float).mean()) ** 2
        half = 1.96 * math.sqrt(variance / len(subs) ** 2)
        found = pick(groups, level="group", name=group, score="auroc", k=-1)
        assert (found.lower, found.upper) == (pytest.approx(found.value - half), pytest.approx(found.value + half))
        assert pd.isna(pick(groups, level="group", name=group, score="auroc", k=8).lower)


def test_a_group_without_all_of_its_tasks_has_no_mean():
    whole = random_rows(3)
    for lacking in (whole.sub_task != "guo_icu", whole.sub_task != "Edema", ~((whole.sub_task == "guo_icu") & (whole.k == 8))):
        groups = ehrshot_table.group_means(ehrshot_table.task_means(whole[lacking]))
        lost = set(whole.sub_task[~lacking])
        group = "operational" if "guo_icu" in lost else "chest X-ray"
        ks = set(whole.k[~lacking])
        assert groups[(groups.name == group) & groups.k.isin(ks)].empty and groups[(groups.level == "all") & groups.k.isin(ks)].empty
        assert not groups[(groups.name == "lab tests") & groups.k.isin(ks)].empty
    unknown = whole.assign(value=whole.value.mask((whole.sub_task == "guo_icu") & (whole.replicate == 1)))
    assert "operational" not in set(ehrshot_table.group_means(ehrshot_table.task_means(unknown)).name)


def test_what_a_run_says_of_leakage_and_of_untested_labels_goes_up_to_the_means():
    rows = random_rows(4)
    rows.loc[rows.sub_task == "guo_icu", ["tested", "note"]] = [0.9, "it saw 3 of the 40 test persons"]
    groups = ehrshot_table.group_means(ehrshot_table.task_means(rows))
    assert (pick(groups, name="operational", score="auroc", k=1).tested, pick(groups, level="all", score="auroc", k=1).tested) == (0.9, 0.9)
    assert pick(groups, level="all", score="auroc", k=1).note == "it saw 3 of the 40 test persons"
    assert pick(groups, name="lab tests", score="auroc", k=1).note == ""


def test_a_tests_interval_is_a_bootstrap_of_persons():
    chance = np.random.default_rng(0)
    persons = chance.integers(0, 60, 200)
    truth = chance.random(200) < 0.3
    p = np.clip(truth * 0.2 + chance.random(200) * 0.8, 0, 1)
    predictions = pd.DataFrame({"boolean_value": truth, "probability": p, "subject_id": persons})
    found = ehrshot_table.bootstrap_scores(predictions, 2000)
    metrics = {"auroc": roc_auc_score, "auprc": average_precision_score, "brier": brier_score_loss}
    drawn = {name: [] for name in metrics}
    people = np.unique(persons)
    for seed in range(500):  # as the benchmark: persons drawn with replacement, as weights of their examples
        sample = np.random.default_rng(seed).choice(people, len(people))
        weights = np.array([(sample == person).sum() for person in persons])
        for name, metric in metrics.items():
            drawn[name].append(metric(truth, p, sample_weight=weights))
    for name, values in drawn.items():
        spread = np.std(values, ddof=1)
        assert found[name]["std"] == pytest.approx(spread, rel=0.12)
        assert found[name]["mean"] == pytest.approx(np.mean(values), abs=spread / 5)
        lower, upper = np.percentile(values, [2.5, 97.5])
        assert found[name]["lower"] == pytest.approx(lower, abs=spread / 2) and found[name]["upper"] == pytest.approx(upper, abs=spread / 2)
    assert ehrshot_table.bootstrap_scores(predictions, 0) == {}


@pytest.fixture
def summary(root):
    """A function that writes one test of each task, arm and variant, and gives results/summary.csv as it would be read."""

    def write(tests, seed=0):
        rows, chance = [], np.random.default_rng(seed)
        for outcome, model, rep, variant, run_seed, more in tests:
            folder = contract.finetuning_folder("ehrshot", model, rep, outcome, run_seed, variant=variant)
            n = 60
            table = pd.DataFrame(
                {"subject_id": np.arange(n) // 2, "prediction_time": pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(n), "h")}
            ).assign(boolean_value=np.arange(n) % 3 == 0, predicted_boolean_probability=chance.random(n))
            folder.mkdir(parents=True)
            file = contract.predictions_file(folder, "ehrshot")
            table.to_parquet(file)
            if "leakage" in more:
                (folder / "config.yaml").write_text(f"run:\n  leakage: '{more['leakage']}'\n")
            storage.write_json(contract.flow_file("ehrshot", outcome), {"parts": {"test": {"read": 80, "kept": n}}})
            auroc = roc_auc_score(table.boolean_value, table.predicted_boolean_probability)
            rows.append(
                dict.fromkeys(results.RESULT_COLUMNS, "")
                | {f"{name}{end}": 0.5 for name in ("auroc", "auprc", "brier") for end in ("", "_low", "_high")}
                | {"trained_on": "ehrshot", "tested_on": "ehrshot", "model": model, "rep_type": rep, "variant": variant, "outcome": outcome}
                | {"seed": run_seed, "n": n, "positives": int(table.boolean_value.sum()), "auroc": auroc, "predictions": contract.display_path(file)}
                | {name: value for name, value in more.items() if name != "leakage"}
            )
        frame = pd.DataFrame(rows)
        frame.to_csv(contract.summary_file(), index=False)
        return results.read_summary()

    return write


def test_a_test_is_a_row_with_its_k_its_replicate_and_its_arm(summary):
    clean = {"leakage": ""}
    table = summary(
        [
            ("ehrshot_guo_icu", "behrt", "medrep", "frozen+shots8", 0, clean),
            ("ehrshot_guo_icu", "behrt", "medrep", "from-mimic+frozen", 2, {"leakage": "it saw 1 of the 30 test persons"}),
            ("ehrshot_chexpert_edema", "pooled-gbm", "none", "", 1, {}),
            ("MT", "behrt", "medrep", "", 100, clean),
            ("ehrshot_guo_icu", "behrt", "medrep", "frozen+shots8", 1, clean | {"subgroup": "sex=F"}),
        ]
    )
    found = ehrshot_table.our_rows(table, 50)
    assert list(found.columns[: len(ehrshot_table.RESULT_COLUMNS)]) == ehrshot_table.RESULT_COLUMNS and len(found) == 9
    rows = found[found.score == "auroc"].to_dict("records")
    keys = ["labeling_function", "sub_task", "model", "head", "replicate", "k", "note"]
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("guo_icu", "guo_icu", "medrep_behrt_medrep_frozen", "lr", 0, 8, ""),
        ("guo_icu", "guo_icu", "medrep_behrt_medrep_from-mimic_frozen", "lr", 2, -1, "it saw 1 of the 30 test persons"),
        ("chexpert", "Edema", "medrep_pooled-gbm_none", "gbm", 1, -1, "whom it saw before is not known"),
    ]
    assert [row["tested"] for row in rows] == [0.75] * 3
    assert (rows[0]["lower"], rows[0]["upper"]) == (0.5, 0.5) and pd.isna(rows[0]["std"])  # of few shots as finetune.py has them
    assert rows[1]["lower"] < rows[1]["value"] < rows[1]["upper"] and rows[1]["std"] > 0
    assert rows[1]["value"] == pytest.approx(table.auroc[1])


def test_tests_of_two_cohorts_are_refused(summary):
    more = [{"leakage": "", "cohort": "a", "made_with": "x"}, {"leakage": "", "cohort": "b", "made_with": "x"}]
    table = summary([("ehrshot_guo_icu", "behrt", "medrep", "", seed, facts) for seed, facts in enumerate(more)])
    with pytest.raises(UserError, match="ehrshot_guo_icu at ehrshot was tested on different cohorts"):
        ehrshot_table.our_rows(table, 0)


def test_the_benchmarks_own_figures_are_read_and_others_refused(root):
    assert ehrshot_table.read_reference_rows("ehrshot").empty
    folder = root / "data" / "ehrshot" / "EHRSHOT_ASSETS" / "results"
    write_reference(folder, ["guo_icu", "chexpert"])
    found = ehrshot_table.read_reference_rows("ehrshot")
    assert set(found.arm) == {"clmbr lr_lbfgs", "count gbm"} and set(found.sub_task) == {"guo_icu", *FINDINGS}
    groups = ehrshot_table.group_means(ehrshot_table.task_means(found))
    assert set(groups.name) == {"chest X-ray"}  # of the operational tasks there is one
    pd.read_csv(folder / "guo_icu" / "all_results.csv").drop(columns="replicate").to_csv(folder / "guo_icu" / "all_results.csv")
    with pytest.raises(UserError, match="results/guo_icu/all_results.csv lacks replicate"):
        ehrshot_table.read_reference_rows("ehrshot")
