"""A fabricated study: what every stage leaves behind, small and without any training."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from experiments import compare
from medrep import config, contract, storage
from medrep.evaluation import metrics, ratings, results
from medrep.settings import ModelConfig
from medrep.tables import DECILES, DEFINITIONS, LABELS, PERSONS, RECORDS, VISITS
from medrep.vocabulary import token_vocabulary

EVIL = "<script>alert(\"x\")</script> & 'quotes' $x^2$"
HOSPITALS = ("mimic", "ehrshot")
OUTCOMES = ("MT", "RA")
ARMS = (
    ("behrt", "none", "", "unk"),
    ("behrt", "description", "", ""),
    ("behrt", "medrep", "", ""),
    ("behrt", "medrep", "frozen", ""),
    ("pooled", "medrep", "", ""),
    ("logreg", "tokens", "", ""),
)


def table_of(table, rows, **names):
    """A table of the contract that only has its number of rows."""
    folder = table.at(**names)
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"row": range(rows)}).to_parquet(folder / "00000.parquet")


def write_site(hospital, people=400, small=0):
    """What preprocessing leaves; `small` makes every smaller count that small."""
    few = small or 40
    visits, admissions = 1000, 500
    tables = {
        name: {"read": 5000 + few, "kept": 4000, "left out": {"no concept": few, "under age": 1000}, "rejected": {}}
        for name in ("condition_occurrence", "drug_exposure", "measurement", "procedure_occurrence")
    }
    tables |= {
        "person": {"read": people, "kept": people, "left out": {}, "rejected": {}},
        "visit_occurrence": {"read": visits, "kept": visits - few, "left out": {}, "rejected": {"unreadable date": few}},
    }
    for name, table in tables.items():
        storage.write_json(contract.counts_file(hospital, name), table)
    domains = {
        domain: {
            "events": 4000,
            "concepts": 300,
            "first": "2130-01-05 22:38:40",
            "last": "2173-08-18 11:11:25",
            "at_midnight": 0,
            "day_only": few,
            "with_value": 3000 if domain == "measurement" else 0,
            "without_unit": few if domain == "measurement" else 0,
        }
        for domain in contract.DOMAINS
    }
    site = {
        "hospital": hospital,
        "tables": tables,
        "domains": domains,
        "concept_0": dict.fromkeys(domains, few / (5000 + few)),
        "persons": {
            "persons": people,
            "with_records": people - few,
            "women": 200,
            "men": people - few - 200,
            "youngest": 18,
            "median_age": 61.0,
            "oldest": 97,
            "median_events": 249.0,
            "most_events": 7007,
            "deaths": few,
            "median_age_of_all": 60.0,
        },
        "units": [{"unit": "mg/dL", "values": 2000, "measurements": 20}, {"unit": EVIL, "values": few, "measurements": 2}],
        "visits": {
            "visits": visits,
            "admissions": admissions,
            "overlapping": few,
            "median_days": 4.4,
            "by_concept": [
                {"concept_id": 9202, "name": "Outpatient Visit", "visits": visits - admissions - few, "admissions": 0},
                {"concept_id": 262, "name": "Emergency Room and Inpatient Visit", "visits": admissions, "admissions": admissions},
                {"concept_id": 581477, "visits": few, "admissions": 0},
            ],
        },
        "records_after_death": few,
        "records_far_in_time": 0,
        "warnings": [f"{few} of {few} persons who died have records more than a day after death"],
    }
    storage.write_json(contract.site_file(hospital), site)
    for table, rows in ((PERSONS, people), (VISITS, visits), (RECORDS, 16000), (DECILES, 77)):
        table_of(table, rows, hospital=hospital)
    storage.write_array(contract.trajectories_folder(hospital) / "token.npy", np.zeros(16000, np.int32))
    token_vocabulary.Vocabulary((*token_vocabulary.SPECIAL_TOKENS, "1000", "1001"), *[(0,) * 7 + (5, 6)] * 2).save(contract.vocabulary_file(hospital))
    audit = {}
    for outcome in OUTCOMES:
        table_of(LABELS, 480, hospital=hospital, outcome=outcome)
        flow = {
            "visits": visits,
            "visits of persons with records": visits - few,
            "admissions": admissions,
            "no admissions": {"not overnight": visits - 2 * few - admissions, "age": few},
            "left out": {"not still in at the prediction time": few},
            "eligible": admissions - few,
            "labelled": admissions - few,
            "positive": 60,
        }
        if outcome == "RA":
            flow |= {"stays": admissions, "followed until": None}
        storage.write_json(contract.flow_file(hospital, outcome), flow)
        audit[outcome] = {
            "open_stays": [{"domain": "condition", "type_id": 32817, "events": 900, "at_start": few, "type": EVIL, "suspect": False}],
            "open_domains": [{"domain": "condition", "events": 900, "at_start": few, "suspect": False}],
            "first_days": [{"domain": "drug", "events": 800, "on_first_day": few, "suspect": False}],
            "best_tokens": [
                {
                    "label": outcome,
                    "token": "4556193",
                    "auroc": 0.6123,
                    "positives": 60,
                    "negatives": admissions - few - 60,
                    "with_token_positive": few,
                    "with_token_negative": 100,
                    "suspect": False,
                    "name": EVIL,
                }
            ],
        }
    storage.write_json(contract.audit_file(hospital), audit)


def examples_of(hospital, outcome, people=300):
    chance = np.random.default_rng([len(hospital), len(outcome)])
    persons = np.repeat(np.arange(people), chance.integers(1, 3, people))
    risk = chance.normal(0, 1.5, people)[persons] - 1.8
    return pd.DataFrame(
        {
            "subject_id": persons + 987654000,
            "prediction_time": pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(len(persons)), "h"),
            "boolean_value": chance.random(len(persons)) < 1 / (1 + np.exp(-risk)),
            "risk": risk,
        }
    )


def write_run(folder, **facts):
    """config.yaml and log.jsonl of a finished run."""
    config.save_settings(
        folder / "config.yaml",
        run={"home": "mimic", "code": "0123456789abcdef", **facts},
        model=ModelConfig(),
        finetuning={"replicates": 60, "cache": "/home/someone/secret/cache"},
        inputs={"/home/someone/usedata": "abc"},
    )
    log = [
        {
            "epoch": e,
            "loss": 3 / e,
            "valid_loss": 3.3 / e,
            "accuracy": 0.1 * e,
            "valid_accuracy": 0.09 * e,
            "valid_auroc": 0.6 + 0.03 * e,
            "best": True,
        }
        for e in (1, 2, 3)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))


def write_tests(root):
    """Runs, their predictions, the summary with subgroups, and the comparison."""
    rows = []
    for outcome in OUTCOMES:
        for model, rep, variant, oov in ARMS:
            for seed in (100, 200):
                folder = contract.finetuning_folder("mimic", model, rep, outcome, seed, variant=variant)
                folder.mkdir(parents=True)
                write_run(
                    folder,
                    model=model,
                    rep_type=rep,
                    head="linear" if model == "behrt" else "",
                    variant=variant,
                    outcome=outcome,
                    seed=seed,
                    trained_on="mimic",
                )
                for hospital in HOSPITALS:
                    examples = examples_of(hospital, outcome)
                    p = 1 / (1 + np.exp(-examples.risk - np.random.default_rng([seed, *f"{rep}{variant}".encode()]).normal(0, 1, len(examples))))
                    file = contract.predictions_file(folder, hospital)
                    examples.drop(columns="risk").assign(predicted_boolean_value=p >= 0.5, predicted_boolean_probability=p).to_parquet(file)
                    common = {
                        "trained_on": "mimic",
                        "tested_on": hospital,
                        "model": model,
                        "head": "linear" if model == "behrt" else "",
                        "rep_type": rep,
                        "variant": variant,
                        "oov": oov,
                        "outcome": outcome,
                        "label": "",
                        "seed": seed,
                        "cohort": hospital,
                        "recalibration": "",
                        "readable_tokens": 1.0,
                    }
                    everyone = np.ones(len(p), bool)
                    groups = {
                        "": everyone,
                        "sex=F": examples.subject_id % 2 == 0,
                        "sex=M": examples.subject_id % 2 == 1,
                        f"race={EVIL}": examples.subject_id < 987654006,
                        "race=b": examples.subject_id >= 987654006,
                    }
                    for group, chosen in groups.items():
                        chosen = np.asarray(chosen)
                        rows.append(
                            common
                            | {"subgroup": group, "predictions": "" if group else contract.display_path(file)}
                            | metrics.compute_metrics(examples.boolean_value[chosen], p[chosen], examples.subject_id[chosen])
                        )
    pd.DataFrame(rows, columns=results.RESULT_COLUMNS).to_csv(contract.summary_file(), index=False)
    compare.main(["--replicates", "40"])


def write_representation(root):
    folder = contract.quality_file().parent
    folder.mkdir(parents=True)
    for rep in ("description", "medrep"):
        storage.write_array(contract.concept_array_file(rep), np.zeros((20, 8), np.float32))
    storage.write_array(contract.edges_file(), np.zeros((2, 36), np.int64))
    contract.concept_index_file().write_text("concept_id\n" + "".join(f"{i}\n" for i in range(20)))
    table_of(DEFINITIONS, 20)
    pd.DataFrame(
        [
            (space, arm, measure, kind, 0.7, 0.6, 0.8, 140)
            for space in ("as_read", "raw")
            for arm in ("description", "medrep")
            for measure, kind in (("link_auroc", "all"), ("link_auroc", "Is a"), ("retrieval_mrr", "parent"), ("decile_order", "all"))
        ],
        columns=["space", "arm", "measure", "kind", "value", "low", "high", "n"],
    ).to_csv(contract.quality_file(), index=False)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(6, 3))
    figure.savefig(contract.map_file("pca"), format="png", dpi=120, metadata={"Software": None})
    pyplot.close(figure)
    for rep in ("none", "medrep"):
        run = contract.pretraining_folder("mimic", "behrt", rep)
        run.mkdir(parents=True)
        write_run(run, model="behrt", rep_type=rep, head="linear")


def write_coverage(small=0):
    files = contract.coverage_files("mimic", "ehrshot")
    kinds = {"codes": ("known", "plain", "ancestor", "lost"), "medrep": ("own", "plain", "ancestor", "lost")}
    events = [2000, 500, 300, small or 200]
    pd.DataFrame(
        [
            {
                "by": by,
                "part": part,
                "reading": reading,
                "kind": kind,
                "events": n,
                "events_share": n / sum(events),
                "concepts": 10,
                "concepts_share": 0.25,
            }
            for by, part in (("all", "all"), ("domain", "drug"))
            for reading, names in kinds.items()
            for kind, n in zip(names, events, strict=True)
        ]
    ).to_csv(files["shares"], index=False)
    pd.DataFrame(
        [
            {
                "outcome": "MT",
                "label": "",
                "model": "behrt",
                "head": "linear",
                "rep_type": rep,
                "variant": "",
                "oov": "",
                "cohort": "a",
                "quartile": q,
                "share_from": q / 5,
                "share_to": (q + 1) / 5,
                "n": 100.0,
                "positives": float(small or 20),
                "seeds": 2,
                "auroc": 0.8 - q / 50,
                "auroc_seeds": 2,
                "reason": "",
            }
            for rep in ("none", "medrep")
            for q in (1, 2, 3, 4)
        ]
    ).to_csv(files["auroc"], index=False)


def write_features(small=0, rated=True):
    folder = contract.finetuning_folder("mimic", "behrt", "medrep", "MT", 100)
    table = pd.DataFrame(
        [
            {
                "token": str(1000 + i),
                "name": EVIL if i == 0 else "concept " + chr(97 + i % 26) * (1 + i // 26),
                "domain": "drug",
                "persons": small or 90,
                "events": 123,
                "top": 50,
                "attention": 5.0,
                "attention_mean": 0.05 - i / 1000,
                "attributed": 40,
                "attribution": -2.0,
                "attribution_mean": -0.05,
                "attribution_abs": 2.0,
            }
            for i in range(30)
        ]
    )
    table.to_csv(contract.features_file(folder, "mimic"), index_label="rank")
    storage.write_json(contract.agreement_file(folder.parent, "mimic"), {"seeds": 2, "attention": 0.9, "attribution": None})
    if rated:
        files = contract.rating_files(folder, "mimic")
        rated = pd.DataFrame(
            {
                "key": range(6),
                "token": ["1000", "1001", "77", "78", "79", "80"],
                "name": [EVIL, *"bcdef"],
                "kind": ["top", "top", "random", "random", "matched", "matched"],
                "rank": range(6),
                "persons": 90,
                "attention_mean": np.arange(6) / 9,
                "attribution_abs_mean": np.arange(6)[::-1] / 7,
                "rating_1": ["High", "Moderate", "Low", "Low", "Low", None],
                "rating_2": ["High", "Moderate", "Low", "High", "Low", None],
                "rating_3": ["Low", "Moderate", "Low", "High", "Low", "Low"],
            }
        )
        rated.to_csv(files["ratings"], index=False)
        storage.write_json(
            files["summary"], {"model": "/home/someone/models/gemma", "where": "/home/someone", "repeats": 3, **ratings.summarize_ratings(rated)}
        )


def write_study(root, small=0):
    for hospital in HOSPITALS:
        write_site(hospital, small=small)
    (root / "results").mkdir(exist_ok=True)
    write_tests(root)
    write_representation(root)
    write_coverage(small)
    write_features(small)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The fabricated study's root; tests that change it copy it."""
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        write_study(root)
    return root


@pytest.fixture
def at_study(study, tmp_path, monkeypatch):
    shutil.copytree(study, tmp_path / "study")
    monkeypatch.setattr(contract, "ROOT", tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture(name="write_study")
def give_write_study():
    """The function that writes it below contract.ROOT; `small` makes every smaller count that small."""
    return write_study


@pytest.fixture
def evil():
    """A name that must be escaped."""
    return EVIL


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -r requirements.txt")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--window-size=1280,900",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()
