"""A small hospital in OMOP tables with EHRSHOT's files beside them: labels, splits, draws for few shots, figures of the benchmark's own models.

All of it is made up, in the form of the real files. Who has had the telling concept (TELLING) before a prediction time is mostly positive.
"""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from medrep.cdm.ehrshot import FINDINGS

TELLING, CONCEPTS = 4001, range(4000, 4020)
SHOTS = (1, 2, 4)
REPLICATES = (0, 1, 2)
LABS = ("lab_anemia", "lab_hyperkalemia", "lab_hypoglycemia", "lab_hyponatremia", "lab_thrombocytopenia")
DIAGNOSES = ("new_hypertension", "new_hyperlipidemia", "new_pancan", "new_celiac", "new_lupus", "new_acutemi")
STAYS = ("guo_los", "guo_readmission", "guo_icu")
THEIR_SPLITS = ("train", "val", "test")


def write_omop(folder, persons=90, seed=0):
    """Two admissions of three days a person and 20 conditions on random days; gives {person: [(time, concept)]}."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    people, visits, conditions, events = [], [], [], {}
    for person in range(1, persons + 1):
        people.append((person, 8507 if person % 2 else 8532, 1940 + person % 40))
        starts = pd.Timestamp("2015-01-01 08:00:00") + pd.to_timedelta(np.sort(random.integers(0, 600, 2)) + [0, 30], "D")
        visits += [(10 * person + i, person, 9201, start, start + pd.Timedelta("3D")) for i, start in enumerate(starts)]
        times = pd.Timestamp("2014-01-01") + pd.to_timedelta(random.integers(0, 1000 * 86_400, 20), "s")
        concepts = random.choice(list(CONCEPTS), 20)
        events[person] = sorted(zip(times, concepts.tolist(), strict=True))
        conditions += [(person, concept, time.date(), time) for time, concept in events[person]]
    pd.DataFrame(people, columns=["person_id", "gender_concept_id", "year_of_birth"]).to_csv(folder / "person.csv", index=False)
    stays = pd.DataFrame(visits, columns=["visit_occurrence_id", "person_id", "visit_concept_id", "visit_start_datetime", "visit_end_datetime"])
    stays["visit_start_date"], stays["visit_end_date"] = stays.visit_start_datetime.dt.date, stays.visit_end_datetime.dt.date
    stays.to_csv(folder / "visit_occurrence.csv", index=False)
    names = ["person_id", "condition_concept_id", "condition_start_date", "condition_start_datetime"]
    pd.DataFrame(conditions, columns=names).to_csv(folder / "condition_occurrence.csv", index=False)
    (folder / "drug_exposure.csv").write_text("person_id,drug_concept_id,drug_exposure_start_date\n1,5001,2015-06-01\n")
    (folder / "procedure_occurrence.csv").write_text("person_id,procedure_concept_id,procedure_date\n1,6001,2015-06-01\n")
    return events


def split_of(person):
    return THEIR_SPLITS[person * 7 % 3]


def write_splits(folder, persons):
    folder.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame({"split": [split_of(person) for person in persons], "omop_person_id": persons})
    rows.to_csv(folder / "person_id_map.csv", index=False)


def make_labels(task, events, seed=0, a_person=2):
    """patient_id, prediction_time, value, label_type of a task, as labeled_patients.csv has them."""
    random, rows = np.random.default_rng([seed, *task.encode()]), []
    for person, own in events.items():
        for _ in range(a_person):
            time = pd.Timestamp("2015-01-01 23:59:00") + pd.Timedelta(int(random.integers(0, 900)), "D")
            telling = any(when < time and concept == TELLING for when, concept in own)
            positive = bool(random.random() < (0.85 if telling else 0.15))
            if task == "chexpert":
                value = sum(2**i for i in range(14) if random.random() < (0.3 if i else 0.1)) | (2**8 if positive else 0)
            else:
                value = int(random.integers(1, 4)) * positive if task.startswith("lab_") else positive
            rows.append((person, time, value))
    table = pd.DataFrame(rows, columns=["patient_id", "prediction_time", "value"]).astype({"value": object})
    table["label_type"] = "boolean" if task.startswith(("guo_", "new_")) else "categorical"
    return table.drop_duplicates(["patient_id", "prediction_time"]).sort_values(["patient_id", "prediction_time"], ignore_index=True)


def sub_tasks(task, labels):
    """{sub-task: 0 or 1 of each label}, written as the benchmark's README says: of a chest X-ray the digits of the value in base two, in 14 places."""
    if task != "chexpert":
        return {task: [int(int(value) >= 1) for value in labels.value]}
    digits = [format(int(value), "b").zfill(14) for value in labels.value]
    return {finding: [int(row[i]) for row in digits] for i, finding in enumerate(FINDINGS)}


def draw_shots(labels, answers, seed=0):
    """The draws of one sub-task: of each class k of train and val, again and again where there are fewer; k = -1 is all."""
    split = np.array([split_of(person) for person in labels.patient_id])
    answers = np.asarray(answers)
    drawn = {}
    for k in (*SHOTS, -1):
        for replicate in REPLICATES:
            random, sample = np.random.default_rng([seed, replicate]), {}
            for theirs in ("train", "val"):
                chosen = np.flatnonzero(split == theirs)
                if k > 0:
                    of_class = [np.flatnonzero((split == theirs) & (answers == answer)) for answer in (0, 1)]
                    chosen = np.concatenate([np.resize(random.permutation(rows), k) for rows in of_class if len(rows)])
                sample |= {
                    f"patient_ids_{theirs}_k": labels.patient_id[chosen].tolist(),
                    f"label_times_{theirs}_k": [time.isoformat() for time in labels.prediction_time[chosen]],
                    f"label_values_{theirs}_k": answers[chosen].tolist(),
                    f"{theirs}_idxs": chosen.tolist(),
                }
            drawn.setdefault(str(k), {})[str(replicate)] = sample
    return drawn


def write_task(folder, task, labels):
    """labeled_patients.csv and all_shots_data.json of a task below `folder`."""
    (folder / task).mkdir(parents=True, exist_ok=True)
    labels.to_csv(folder / task / "labeled_patients.csv", index=False)
    shots = {name: draw_shots(labels, answers) for name, answers in sub_tasks(task, labels).items()}
    (folder / task / "all_shots_data.json").write_text(json.dumps(shots))


def write_reference(folder, tasks, seed=0):
    """all_results.csv of two models of the benchmark's, with figures by chance."""
    random = np.random.default_rng(seed)
    for task in tasks:
        rows = [
            (task, sub, model, head, replicate, k, score, random.random(), 0.01, 0.4, 0.5, 0.6)
            for sub in (FINDINGS if task == "chexpert" else [task])
            for model, head in (("clmbr", "lr_lbfgs"), ("count", "gbm"))
            for k in (*SHOTS, -1)
            for replicate in REPLICATES
            for score in ("auroc", "auprc", "brier")
        ]
        names = ["labeling_function", "sub_task", "model", "head", "replicate", "k", "score", "value", "std", "lower", "mean", "upper"]
        (folder / task).mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows, columns=names).to_csv(folder / task / "all_results.csv")


MEDS_SPLITS = dict(zip(THEIR_SPLITS, ("train", "tuning", "held_out"), strict=True))
LABEL_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("prediction_time", pa.timestamp("us")),
        ("boolean_value", pa.bool_()),
        ("integer_value", pa.int64()),
        ("float_value", pa.float64()),
        ("categorical_value", pa.string()),
    ]
)


def write_meds_labels(folder, task, labels):
    """labels/{task}/labels.parquet of the MEDS release: yes or no in boolean_value, a class or the findings' bits in integer_value."""
    (folder / "labels" / task).mkdir(parents=True, exist_ok=True)
    column = "boolean_value" if labels.label_type.iloc[0] == "boolean" else "integer_value"
    values = [bool(value) if column == "boolean_value" else int(value) for value in labels.value]
    names = {"subject_id": labels.patient_id.tolist(), "prediction_time": labels.prediction_time.tolist(), column: values}
    columns = [pa.array(names.get(field.name, [None] * len(labels)), field.type) for field in LABEL_SCHEMA]
    pq.write_table(pa.Table.from_arrays(columns, schema=LABEL_SCHEMA), folder / "labels" / task / "labels.parquet")


def write_meds_splits(folder, persons):
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    table = pa.table({"subject_id": pa.array(persons, pa.int64()), "split": [MEDS_SPLITS[split_of(person)] for person in persons]})
    pq.write_table(table, folder / "metadata" / "subject_splits.parquet")


def write_meds_events(folder, omop):
    """data/data.parquet: the rows of the OMOP tables that write_omop has written to `omop`, as meds_etl writes them. Codes are concept ids."""
    read = {name: pd.read_csv(omop / f"{name}.csv") for name in ("person", "visit_occurrence", *(f"{one[0]}_{one[1]}" for one in EVENTS))}
    rows = []
    for row in read["person"].itertuples():
        born = pd.Timestamp(row.year_of_birth, 1, 1)
        rows += [
            (row.person_id, born, "MEDS_BIRTH", "person"),
            (row.person_id, born, f"Gender/{'M' if row.gender_concept_id == 8507 else 'F'}", "person"),
        ]
    rows = [(*row, None, None) for row in rows]
    for row in read["visit_occurrence"].itertuples():
        start, end = pd.Timestamp(row.visit_start_datetime), pd.Timestamp(row.visit_end_datetime)
        rows.append((row.person_id, start, str(row.visit_concept_id), "visit", end, row.visit_occurrence_id))
    for kind, rest, date in EVENTS:
        for row in read[f"{kind}_{rest}"].to_dict("records"):
            time = pd.Timestamp(row.get(f"{date}_datetime") or row[f"{date}_date"])
            rows.append((row["person_id"], time, str(row[f"{kind}_concept_id"]), kind, None, None))
    rows.sort(key=lambda row: row[:2])
    names = ("subject_id", "time", "code", "table", "end", "visit_id")
    kinds = (pa.int64(), pa.timestamp("us"), pa.string(), pa.string(), pa.timestamp("us"), pa.int64())
    (folder / "data").mkdir(parents=True, exist_ok=True)
    arrays = {name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(zip(names, kinds, strict=True))}
    pq.write_table(pa.table(arrays), folder / "data" / "data.parquet")


EVENTS = (("condition", "occurrence", "condition_start"), ("drug", "exposure", "drug_exposure_start"), ("procedure", "occurrence", "procedure"))


def write_ehrshot(data, tasks=("guo_icu",), persons=90):
    """The whole hospital below `data`; gives its events and {task: labels}."""
    events = write_omop(data, persons)
    write_splits(data / "splits", list(events))
    labels = {task: make_labels(task, events) for task in tasks}
    for task, rows in labels.items():
        write_task(data / "benchmark", task, rows)
    return events, labels
