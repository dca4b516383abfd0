"""EHRSHOT's tasks and files: what a value means, which files there are, and what is refused."""

import json
import random

import ibis
import pytest

from medrep.cdm import ehrshot, outcomes
from medrep.cdm.engine import connect
from medrep.errors import UserError


def test_the_benchmark_has_15_tasks_in_four_groups_and_28_answers():
    assert sum(map(len, ehrshot.GROUPS.values())) == 15 and len(ehrshot.TASKS) == 28
    assert len({task.outcome for task in ehrshot.TASKS}) == 28 and len({task.sub_task for task in ehrshot.TASKS}) == 28
    assert {task.group for task in ehrshot.TASKS} == set(ehrshot.GROUPS)
    for task in ehrshot.TASKS:
        assert ehrshot.task_of(task.outcome) == task and ehrshot.find_tasks(task.asked_as) == [task]
        assert outcomes.find_outcomes(task.asked_as) == [outcomes.Outcome(task.outcome, "ehrshot")]
    assert ehrshot.task_of("MT") is None
    assert len(ehrshot.find_tasks("ehrshot:chexpert")) == 14 and len(ehrshot.find_tasks("ehrshot:all")) == 28
    with pytest.raises(UserError, match="--outcome ehrshot:guo is unknown; of EHRSHOT's tasks there are guo_los, .*chexpert_edema, and all"):
        outcomes.find_outcomes("ehrshot:guo")


def test_a_users_file_can_not_take_the_name_of_a_task(tmp_path):
    (tmp_path / "ehrshot_guo_icu.csv").write_text("subject_id,prediction_time,boolean_value\n")
    with pytest.raises(UserError, match="ehrshot_guo_icu is the name of a task of EHRSHOT; rename the file"):
        outcomes.find_outcome(str(tmp_path / "ehrshot_guo_icu.csv"))


def answer_by_hand(task, value):
    """As the benchmark's README tells it: a finding is a digit of the value written in base two with 14 digits; a lab test is normal at 0."""
    if value is None or value < 0:
        return None
    if task.name == "chexpert":
        digits = format(value, "b").zfill(14)
        return digits[ehrshot.FINDINGS.index(task.finding)] == "1" if len(digits) == 14 else None
    if task.name.startswith("lab_"):
        return value != 0 if value <= 3 else None
    return value == 1 if value <= 1 else None


def test_an_answer_is_what_the_value_says_of_the_task():
    chance = random.Random(1)
    values = [None, -1, 0, 1, 2, 3, 4, 8192, 16383, 16384, *(chance.randrange(2**14) for _ in range(200))]
    table = ibis.memtable({"place": range(len(values)), "value": values}, schema={"place": "int64", "value": "int64"})
    for task in ehrshot.TASKS:
        found = connect().to_pyarrow(table.mutate(answer=task.is_positive(table.value)).order_by("place"))["answer"].to_pylist()
        assert found == [answer_by_hand(task, value) for value in values], task


@pytest.mark.parametrize("place", ["", "EHRSHOT_ASSETS"])
@pytest.mark.parametrize("ending", ["", "_ehrshot"])
def test_the_files_lie_beside_the_tables_or_in_the_folder_of_the_download(root, place, ending):
    data, task = root / "data" / "h" / place, ehrshot.find_tasks("ehrshot:guo_los")[0]
    with pytest.raises(UserError, match="--outcome ehrshot:guo_los: data/h/benchmark/guo_los/labeled_patients.csv is missing: bring EHRSHOT_ASSETS"):
        ehrshot.require_files("h", task)
    (data / f"benchmark{ending}" / "guo_los").mkdir(parents=True)
    labels = data / f"benchmark{ending}" / "guo_los" / "labeled_patients.csv"
    labels.write_text("patient_id,prediction_time,value,label_type\n")
    with pytest.raises(UserError, match="splits/person_id_map.csv is missing, which says who is learned from and who is tested"):
        ehrshot.require_files("h", task)
    (data / f"splits{ending}").mkdir()
    (data / f"splits{ending}" / "person_id_map.csv").write_text("split,omop_person_id\n")
    assert ehrshot.require_files("h", task) == (labels, None)
    (labels.parent / "few_shots_data.json").write_text("{}")
    assert ehrshot.require_files("h", task) == (labels, labels.parent / "few_shots_data.json")
    (labels.parent / "all_shots_data.json").write_text("{}")
    assert ehrshot.require_files("h", task) == (labels, labels.parent / "all_shots_data.json")


def write_splits(root, text):
    folder = root / "data" / "h" / "splits"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "person_id_map.csv").write_text(text)


def test_splits_are_read_in_our_names_and_what_is_unclear_is_refused(root):
    assert ehrshot.read_splits(connect(), "h") is None
    write_splits(root, ",split,omop_person_id\n0,train,-9007199254740993\n1,val,2\n2,test,3.0\n3,test,3\n")
    found = ehrshot.read_splits(connect(), "h").order_by("person_id").to_pyarrow().to_pylist()
    assert [tuple(row.values()) for row in found] == [(-9007199254740993, "train"), (2, "valid"), (3, "test")]
    for rows in ("train,1\ntest,1\n", "dev,1\n", ",1\n", "train,x\n"):
        write_splits(root, "split,omop_person_id\nval,2\n" + rows)
        with pytest.raises(UserError, match="splits/person_id_map.csv: 1 persons have an id or a split that can't be read, or two splits"):
            ehrshot.read_splits(connect(), "h")


@pytest.mark.parametrize(
    "text",
    ["not JSON", "[]", "{}", '{"guo_icu": {"1": {"0": {}}}}', '{"guo_icu": {"one": {}, "1": []}}'],
    ids=["text", "list", "none", "keys", "form"],
)
def test_draws_of_another_form_are_refused_in_one_sentence(root, text):
    file = root / "all_shots_data.json"
    file.write_text(text)
    with pytest.raises(UserError, match="all_shots_data.json is not what EHRSHOT draws for guo_icu .*: bring it again"):
        ehrshot.read_shots(file, ehrshot.find_tasks("ehrshot:guo_icu")[0])


@pytest.mark.parametrize("value", ["Infinity", "NaN"])
def test_draws_with_labels_that_are_no_numbers_are_refused(root, value):
    sample = {f"{name}_{part}_k": [1] for name in ("patient_ids", "label_values") for part in ("train", "val")}
    sample |= {f"label_times_{part}_k": ["2020-01-01T23:59:00"] for part in ("train", "val")} | {"label_values_val_k": [float(value)]}
    (root / "all.json").write_text(json.dumps({"guo_icu": {"4": {"0": sample}}}))
    assert value in (root / "all.json").read_text()
    with pytest.raises(UserError, match="is not what EHRSHOT draws for guo_icu .*: bring it again"):
        ehrshot.read_shots(root / "all.json", ehrshot.find_tasks("ehrshot:guo_icu")[0])


def test_draws_of_unequal_lists_are_refused(root):
    sample = {f"{name}_{part}_k": [1] for name in ("patient_ids", "label_values") for part in ("train", "val")}
    sample |= {"label_times_train_k": ["2020-01-01T23:59:00"] * 2, "label_times_val_k": ["2020-01-01T23:59:00"]}
    (root / "few.json").write_text(json.dumps({"guo_icu": {"4": {"0": sample}}}))
    with pytest.raises(UserError, match="is not what EHRSHOT draws"):
        ehrshot.read_shots(root / "few.json", ehrshot.find_tasks("ehrshot:guo_icu")[0])
