"""One changed number makes anew exactly the stages that read it and those that read what they write; all others say that they are up to date."""

import importlib
import json
import re
import sys
from dataclasses import fields

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medrep import config, contract
from medrep.errors import UserError
from medrep.settings import CHOICES, MEDS_SETTINGS, SECTIONS
from medrep.stamps import Stamp
from preprocessing import all_stages, audit, deaths, deciles, labels, persons, records, site_report, trajectories, visits

from .road import HOSPITALS, environment_of, write_meds, write_root

STAGES = (persons, visits, records, deaths, site_report, deciles, trajectories, labels, audit)
INPUTS = {
    "persons": (),
    "visits": ("persons",),
    "records": ("persons", "visits"),
    "deaths": ("persons", "visits", "records"),
    "site_report": ("persons", "visits", "records", "deaths"),
    "deciles": ("persons", "records"),
    "trajectories": ("persons", "visits", "records", "deciles"),
    "labels": ("persons", "visits", "records", "deaths"),
    "audit": ("visits", "records", "trajectories", "labels"),
}
READ_BY = {
    "cohort.min_values: 9": {"deciles"},
    "cohort.prediction_hours: 23": {"labels"},
    "cohort.long_stay_days: 6": {"trajectories", "labels"},
    "cohort.doubtful_death_days: 61": {"deaths", "labels"},
    "cohort.split_seed: 1": {"persons"},
    "models/behrt.model.max_length: 65": {"audit"},
    "hospitals/mimic.follow_up_ends: last_record": {"visits", "records", "site_report", "labels"},  # a hospital's settings stand together
}


def with_later(stages):
    """`stages` and all that read what they write."""
    found = set(stages)
    for stage, inputs in INPUTS.items():  # in their order
        if found & set(inputs):
            found.add(stage)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A root where preprocessing was run, and what that printed."""
    root = tmp_path_factory.mktemp("fresh")
    write_root(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        for name, value in environment_of(root).items():
            patch.setenv(name, value)
        all_stages.main(["--hospitals", *HOSPITALS])
        yield root


def run_again(capsys) -> tuple[set[str], str]:
    capsys.readouterr()
    all_stages.main(["--hospitals", *HOSPITALS])
    said = capsys.readouterr().out
    return {json.loads(line)["stage"] for line in said.splitlines() if line.startswith('{"stage"')}, said


def outputs(root):
    """Those of stages; figures that are written with them have their checksums alone."""
    return {path.name.removeprefix(".").removesuffix(".made.json") for path in stamp_files(root, "mimic")}


def test_a_second_run_makes_nothing_and_says_so_of_every_output(made, capsys):
    stages, said = run_again(capsys)
    assert not stages
    for hospital in HOSPITALS:
        for name in outputs(made):
            assert re.search(rf"usedata/{hospital}/(labels/)?{re.escape(name)} is up to date", said), name


@pytest.mark.parametrize("change", READ_BY)
def test_one_changed_number_makes_anew_exactly_the_stages_that_read_it(made, capsys, change):
    file, section_and_name = change.split(".", 1)
    path = made / "configs" / f"{file}.yaml"
    before = path.read_text() if path.exists() else None
    name, value = section_and_name.split(": ")
    if "." in name:
        section, name = name.split(".")
        path.write_text(re.sub(rf"({section}: .*{name}: )\d+", rf"\g<1>{value}", before))
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            (before or "") + f"{name}: {value}\n" if f"{name}:" not in (before or "") else re.sub(rf"{name}: .*", f"{name}: {value}", before)
        )
    assert path.read_text() != before
    stages, said = run_again(capsys)
    if before is None:
        path.unlink()
    else:
        path.write_text(before)
    assert stages == with_later(READ_BY[change])
    written = {f"{stage}" for stage in INPUTS} - stages
    for stage in written & {"persons", "visits", "records", "deaths", "deciles", "trajectories"}:
        assert f"usedata/mimic/{stage} is up to date" in said
    assert run_again(capsys)[0] == with_later(READ_BY[change])  # and back


class AtStampError(Exception):
    """What a stage would be made from, in place of making it."""


def other_value(section: str, name: str, value):
    """Another value of a setting that a stage takes."""
    choices = {
        "billing": ["as_recorded"],
        "follow_up_ends": [kind for kind in ("unknown", "last_record") if kind != value],
        "datetime_format": ["%d/%m/%Y"],
        "home": ["ehrshot"],
    }
    if name == "code_vocabularies":
        return {"^RACE//(.+)$": "Race"}
    if name == "split_shares":
        return {"train": 0.6, "valid": 0.2, "test": 0.2}
    known = choices.get(name) or [choice for choice in CHOICES.get(section, {}).get(name, []) if choice != value]
    if known:
        return known[0]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + type(value)(1)
    return [123] if isinstance(value, list) else f"{value}x"


def record_settings(patch, sections) -> set[tuple[str, str]]:
    """A set that (section, name) comes into whenever one of the settings is read."""
    read = set()

    def recorder(section):
        def getattribute(self, name):
            if not name.startswith("_") and not sys._getframe(1).f_code.co_filename.endswith(("dataclasses.py", "config.py")):
                read.add((section, name))
            return object.__getattribute__(self, name)

        return getattribute

    for section in sections:
        patch.setattr(SECTIONS[section], "__getattribute__", recorder(section))
    return read


def run_recorded(main, flags, sections) -> set[tuple[str, str]]:
    """Make it anew; the settings that were read meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDREP_FRESH", "1")
        read = record_settings(patch, sections)
        main(flags)
        known = {(section, field.name) for section in sections for field in fields(SECTIONS[section])}
        return read & known


def find_unnoticed(main, flags, read, used) -> set[str]:
    """Of the settings that were `read` those that the stage's stamp says nothing of; `used` {section: the settings}."""

    def stop(stamp):
        raise AtStampError(json.dumps(stamp.content, sort_keys=True))

    def stamped(*more):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Stamp, "is_current", stop)
            try:
                main([*flags, *more])
            except (AtStampError, UserError) as made_from:
                return str(made_from)

    before = stamped()
    return {
        f"{section}.{name}"
        for section, name in sorted(read)
        if stamped("--set", f"{section}.{name}={json.dumps(other_value(section, name, getattr(used[section], name)))}") == before
    }


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__.rpartition(".")[2])
def test_a_stage_reads_no_setting_that_its_stamp_has_not(made, stage):
    """Recorded while the stage works: whatever it reads of the cohort's or the hospital's settings puts it out of date when it changes."""
    flags, sections = ["--hospital", "ehrshot"], ("cohort", "hospital")
    read = run_recorded(stage.main, flags, sections)
    assert {stage.__name__.rpartition(".")[2] for stage in STAGES} == set(INPUTS)
    unnoticed = find_unnoticed(stage.main, flags, read, {"cohort": config.load("cohort"), "hospital": config.load("hospital", hospital="ehrshot")})
    # where tables come from: which files these are is among the inputs; and a table without times can't have unreadable ones
    harmless = {"hospital.database", "hospital.source_folder"} | ({"cohort.max_unreadable_times"} if stage is persons else set())
    assert (read or stage is audit) and unnoticed <= harmless, unnoticed


# ---- MEDS --------------------------------------------------------------------------------------------------------

OF_EVENTS = {f"hospital.{name}" for name in MEDS_SETTINGS} - {"hospital.code_vocabularies"}
"""What the codes of events mean: of a person only the race is told by a code, and by what code_vocabularies says of it."""


def stamp_files(root, hospital):
    return {path: path.read_bytes() for path in (root / "usedata" / hospital).rglob(".*.made.json") if "inputs" in json.loads(path.read_text())}


@pytest.fixture(scope="module")
def meds(made):
    """A MEDS dataset beside the others, read; gives its folder."""
    folder = made / "data" / "meds"
    write_meds(folder)
    for stage in READ_MEDS:
        stage.main(["--hospital", "meds"])
    return folder


READ_MEDS = (persons, visits, records, deaths)


@pytest.mark.parametrize("stage", READ_MEDS, ids=lambda stage: stage.__name__.rpartition(".")[2])
def test_a_stage_reads_no_setting_of_a_meds_dataset_that_its_stamp_has_not(meds, stage):
    flags, sections = ["--hospital", "meds"], ("cohort", "hospital")
    read = run_recorded(stage.main, flags, sections)
    unnoticed = find_unnoticed(stage.main, flags, read, {"cohort": config.load("cohort"), "hospital": config.load("hospital", hospital="meds")})
    harmless = {"hospital.database", "hospital.source_folder"}
    if stage is persons:
        harmless |= OF_EVENTS | {"cohort.max_unreadable_times"}
    if stage is deaths:
        harmless |= {"hospital.stay_id_column", "hospital.code_mapping"}  # of visits and events
    assert read and unnoticed <= harmless, unnoticed


def change_of(meds, file):
    """One more row, or a new file, of the dataset."""
    path = meds / file
    path.parent.mkdir(exist_ok=True)
    if file.startswith("data/"):
        table = pq.read_table(path)
        pq.write_table(pa.concat_tables([table, table.slice(len(table) - 1)]), path)
    elif file.endswith("codes.parquet"):
        pq.write_table(pa.table({"code": ["x"], "parent_codes": [["LOINC/y"]]}), path)
    elif file.endswith("splits.parquet"):
        pq.write_table(pa.table({"subject_id": pa.array([1], pa.int64()), "split": ["train"]}), path)
    else:
        path.write_text("code,concept_id\nx,0\n")


@pytest.mark.parametrize("file", ["data/0.parquet", "metadata/codes.parquet", "metadata/subject_splits.parquet", "code_mapping.csv"])
def test_each_file_of_a_meds_dataset_makes_anew_what_reads_it(made, meds, file, capsys):
    def run():
        capsys.readouterr()
        for stage in READ_MEDS:
            stage.main(["--hospital", "meds"])
        return {json.loads(line)["stage"] for line in capsys.readouterr().out.splitlines() if line.startswith('{"stage"')}

    run()
    before = stamp_files(made, "meds")
    assert not run()
    change_of(meds, file)
    assert run() == {"persons", "visits", "records", "deaths"}
    assert not run() and stamp_files(made, "meds").keys() == before.keys()


# ---- vectors -----------------------------------------------------------------------------------------------------

VECTOR_STAGES = {
    "concepts": [],
    "definitions": [],
    "edges": [],
    "encoder": ["--gpu-devices", "cpu"],
    "description": ["--gpu-devices", "cpu"],
    "name": ["--gpu-devices", "cpu", "--text", "name"],
    "graph": ["--gpu-devices", "cpu"],
    "random_vectors": [],
    "medtok": ["--gpu-devices", "cpu"],
    "keep": ["--gpu-devices", "cpu"],
    "evaluate": [],
}
VECTOR_SECTIONS = ("definitions", "encoder", "graph", "medtok", "keep", "cohort")
REFUSED_IF_WRONG = {f"encoder.{name}" for name in ("valid_share", "patience", "checkpoint_steps", "epochs", "model", "training")}
REFUSED_IF_WRONG |= {"encoder.batch_pairs", "encoder.temperature"}
"""Of the encoder's training, which whoever uses the encoder looks at all the same."""
HARMLESS = {
    "definitions": {f"definitions.{field.name}" for field in fields(SECTIONS["definitions"])},  # of the model that writes, and here none does
    "encoder": {"encoder.pooling", "encoder.checkpoint_steps"},
    "description": REFUSED_IF_WRONG,
    "name": REFUSED_IF_WRONG,
}
"""What a stage reads that changes nothing of what it writes."""


def vector_stage(name):
    return importlib.import_module(f"representation.{'description' if name == 'name' else name}")


@pytest.fixture(scope="module")
def recorded(made):
    """{stage: the settings that it read}, of all stages of vectors in their order."""
    return {name: run_recorded(vector_stage(name).main, flags, VECTOR_SECTIONS) for name, flags in VECTOR_STAGES.items()}


@pytest.mark.parametrize("name", VECTOR_STAGES)
def test_a_stage_of_vectors_reads_no_setting_that_its_stamp_has_not(recorded, name):
    used = {section: config.load(section) for section in VECTOR_SECTIONS}
    unnoticed = find_unnoticed(vector_stage(name).main, VECTOR_STAGES[name], recorded[name], used)
    assert unnoticed <= HARMLESS.get(name, set()), unnoticed


VECTORS_READ_BY = {
    "graph.yaml epochs: 4": {"graph", "evaluate"},
    "graph.yaml decile_chain: false": {"edges", "graph", "medtok", "keep", "evaluate"},
    "encoder.yaml pooling: cls": {"description", "name", "graph", "medtok", "evaluate"},
    "keep.yaml epochs: 2": {"keep", "evaluate"},
}


@pytest.mark.parametrize("change", VECTORS_READ_BY)
def test_one_changed_number_makes_anew_exactly_the_stages_of_vectors_that_read_it(made, recorded, change, capsys):
    def run():
        capsys.readouterr()
        for name, flags in VECTOR_STAGES.items():
            vector_stage(name).main(flags)
        return {json.loads(line)["stage"] for line in capsys.readouterr().out.splitlines() if line.startswith('{"stage"')}

    assert not run()
    file, name, value = re.fullmatch(r"(\S+) (\w+): (.*)", change).groups()
    path = made / "configs" / file
    before = path.read_text()
    after = re.sub(rf"(?m)^{name}: .*$", f"{name}: {value}", before)
    path.write_text(after if after != before else f"{before}{name}: {value}\n")
    assert run() == VECTORS_READ_BY[change]
    path.write_text(before)
    assert run() == VECTORS_READ_BY[change] and not run()
