"""One changed number makes anew exactly the stages that read it and those that read what they write; all others say that they are up to date."""

import json
import re
import sys
from dataclasses import fields

import pytest

from medrep import config, contract
from medrep.errors import UserError
from medrep.settings import CHOICES, CohortConfig, HospitalConfig
from medrep.stamps import Stamp
from preprocessing import all_stages, audit, deaths, deciles, labels, persons, records, site_report, trajectories, visits

from .road import HOSPITALS, environment_of, write_root

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
    return {path.name.removeprefix(".").removesuffix(".made.json") for path in (root / "usedata" / "mimic").rglob(".*.made.json")}


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


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__.rpartition(".")[2])
def test_a_stage_reads_no_setting_that_its_stamp_has_not(made, stage, monkeypatch):
    """Recorded while the stage works: whatever it reads of the cohort's or the hospital's settings puts it out of date when it changes."""
    read = set()

    def recorder(section):
        def getattribute(self, name):
            if not name.startswith("_") and not sys._getframe(1).f_code.co_filename.endswith(("dataclasses.py", "config.py")):
                read.add((section, name))
            return object.__getattribute__(self, name)

        return getattribute

    for section, settings in (("cohort", CohortConfig), ("hospital", HospitalConfig)):
        monkeypatch.setattr(settings, "__getattribute__", recorder(section))
    monkeypatch.setenv("MEDREP_FRESH", "1")
    stage.main(["--hospital", "ehrshot"])
    monkeypatch.delenv("MEDREP_FRESH")
    used = {"cohort": config.load("cohort"), "hospital": config.load("hospital", hospital="ehrshot")}
    known = {(section, field.name) for section, of in used.items() for field in fields(of)}
    read &= known
    stages = {stage.__name__.rpartition(".")[2] for stage in STAGES}
    assert stages == set(INPUTS)

    def stop(stamp):
        raise AtStampError(json.dumps(stamp.content, sort_keys=True))

    def stamped(*flags):
        with monkeypatch.context() as patch:
            patch.setattr(Stamp, "is_current", stop)
            try:
                stage.main(["--hospital", "ehrshot", *flags])
            except (AtStampError, UserError) as made_from:
                return str(made_from)

    before, unnoticed = stamped(), set()
    for section, name in sorted(read):
        value = getattr(used[section], name)
        if stamped("--set", f"{section}.{name}={json.dumps(other_value(section, name, value))}") == before:
            unnoticed.add(f"{section}.{name}")
    # where tables come from: which files these are is among the inputs; and a table without times can't have unreadable ones
    harmless = {"hospital.database", "hospital.source_folder"} | ({"cohort.max_unreadable_times"} if stage is persons else set())
    assert (read or stage is audit) and unnoticed <= harmless, unnoticed
