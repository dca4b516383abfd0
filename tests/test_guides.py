"""The guides tell the truth: README.md, one in each stage's folder, and codes/README.md, whose every example is run."""

import argparse
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medrep import contract
from medrep.vectors import concept_vectors
from preprocessing import deciles, persons, records, trajectories, visits
from representation import all_stages

from .test_one_record import ASPIRIN, FEVER, HBA1C, write_data

README, CODES = contract.REPOSITORY / "README.md", contract.REPOSITORY / "codes"
FOLDERS = ("preprocessing", "representation", "experiments")
GUIDES = [README, CODES / "README.md", *(CODES / folder / "README.md" for folder in FOLDERS)]
SIX_COMMANDS = """\
bash preprocessing/run.sh
bash representation/run.sh
python experiments/pretrain.py --model behrt --rep-type medrep --gpu-devices 0 1 2 3 4 5 6 7
python experiments/finetune.py -d 0 --model behrt --rep-type medrep --outcome MT
python experiments/finetune.py -d 0 --model behrt --rep-type medrep --outcome MT --extract-attention-score
CUDA_VISIBLE_DEVICES=0 python experiments/medgemma.py --rep medrep --outcome MT --seed 100 --ex mimic
"""
STROKE = 443454


def test_readme_is_short_and_has_the_six_commands_word_for_word():
    text = README.read_text()
    assert len(text.splitlines()) <= 150 and SIX_COMMANDS in text


# ---- links, commands and flags -----------------------------------------------------------------------------------


def anchors(path) -> set[str]:
    """The headings of a guide, as GitHub makes links of them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(contract.REPOSITORY)))
def test_links_lead_somewhere(guide):
    for link in re.findall(r"\]\((?!https?://)([^)]*)\)", guide.read_text()):
        file, _, anchor = link.partition("#")
        target = (guide.parent / file).resolve() if file else guide
        assert target.exists() and (not anchor or anchor in anchors(target)), link


def stages(folder: str) -> list[str]:
    return sorted(path.stem for path in (CODES / folder).glob("*.py"))


class ParserIsBuilt(Exception):
    pass


def options_of(folder: str, stage: str, monkeypatch) -> list[argparse.Action]:
    """What the command line of a stage knows, from its own parser."""
    parsers = []

    def stop(parser, *_, **__):
        parsers.append(parser)
        raise ParserIsBuilt

    for method in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, method, stop)
    with pytest.raises(ParserIsBuilt):
        importlib.import_module(f"{folder}.{stage}").main([])
    return [action for action in parsers[0]._actions if action.dest != "help" and action.help != argparse.SUPPRESS]


def documented_flags(folder: str) -> dict[str, set[str]]:
    """{stage: flags} as the rows `flag | of | what it does` of the folder's guide have them."""
    names, found = stages(folder), {stage: set() for stage in stages(folder)}
    for table in re.findall(r"^\| flag \| of \|.*\n\|[-|]*\n((?:\|.*\n)+)", (CODES / folder / "README.md").read_text(), flags=re.M):
        for row in table.splitlines():
            flag, of = row.split(" | ")[:2]
            named = re.findall(r"`(\w+)`", of)
            assert set(named) <= set(names), row
            for stage in [name for name in names if name not in named] if of.startswith("all") else named:
                found[stage] |= {text.split()[0] for text in re.findall(r"`(-[^`]*)`", flag)}
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_stage_and_every_flag_stands_in_its_folders_guide_and_no_other(folder, monkeypatch):
    text, flags = (CODES / folder / "README.md").read_text(), documented_flags(folder)
    for stage in stages(folder):
        assert f"python {folder}/{stage}.py" in text
        options = options_of(folder, stage, monkeypatch)
        if stage == "all_stages" and folder == "representation":  # it hands these to the stages that know them
            handed_on = {of: {"--" + name.replace("_", "-") for name in names} for of, names in all_stages.FLAGS_OF_STAGES.items()}
            assert all(names <= flags[of] for of, names in handed_on.items())
            options = [option for option in options if option.option_strings[0] not in set.union(*handed_on.values())]
        assert flags[stage] == {name for option in options for name in option.option_strings}, stage


def test_every_kind_of_vector_stands_in_the_guide(monkeypatch):
    (flag,) = [option for option in options_of("experiments", "pretrain", monkeypatch) if option.dest == "rep_type"]
    kinds = flag.help.split(", or the path")[0].split(", ")
    text = (CODES / "representation" / "README.md").read_text()
    assert len(kinds) > 5 and all(f"\n| `{kind}` |" in text for kind in kinds)


def test_the_functions_that_make_a_measurements_rows_are_where_the_guide_says():
    table = (CODES / "README.md").read_text().partition("| made by |\n")[2].partition("\n\n")[0]
    makers = [part for row in table.splitlines()[1:] for part in row.rpartition(" | ")[2].split(";") if ".py`: " in part]
    named = [(re.search(r"`([\w/]+\.py)`", part)[1], re.findall(r"`([\w.]+)`", part.partition(":")[2])) for part in makers]
    assert len(named) > 10 and all(names for _, names in named)
    folder = CODES
    for file, names in named:
        folder = CODES / Path(file).parent if "/" in file else folder  # a bare name lies beside the one before
        path = folder / Path(file).name
        for name in names:
            assert re.search(rf"^ *(def|class) {name.rpartition('.')[2]}\b", path.read_text(), flags=re.M), (file, name)


# ---- how to add something ----------------------------------------------------------------------------------------


def how_tos() -> dict[str, list[tuple[str, str, str]]]:
    """{heading: [(file, language, text) of each block]}; a block's file is the last that a line before it names."""
    found, file, lines = {}, "", iter((CODES / "README.md").read_text().partition("## How to add")[2].splitlines())
    for line in lines:
        if line.startswith("### "):
            blocks, file = found.setdefault(line.removeprefix("### "), []), ""
        elif named := re.fullmatch(r"`(codes/\S+)`:", line):
            file = named[1]
        elif line.startswith("```"):
            text = "".join(f"{inner}\n" for inner in iter(lambda: next(lines), "```"))
            blocks.append((file, line.removeprefix("```"), text))
    return found


def apply_diff(text: str, diff: str) -> str:
    """`text` with the lines of `diff` that begin with + among those that begin with a space, which it must have once."""
    lines = [(line[0], f"{line[1:]}\n") for line in diff.splitlines()]
    before, after = ("".join(line for sign, line in lines if sign in signs) for signs in (" ", " +"))
    assert text.count(f"\n{before}") == 1, before
    return text.replace(f"\n{before}", f"\n{after}")


def follow(clone, heading: str) -> list[str]:
    """Do what the guide says under `heading`; gives what each command printed."""
    printed = []
    for file, language, text in how_tos()[heading]:
        path = clone / file
        if language == "bash":
            printed += [run(clone, command) for command in text.splitlines()]
        elif language == "diff":
            path.write_text(apply_diff(path.read_text(), text))
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return printed


def run(clone, command: str) -> str:
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDREP_")}
    environment |= {"PYTHONPATH": str(clone / "codes"), "MEDREP_CONFIGS": "configs/demo", "HF_HUB_OFFLINE": "1", "PATH": path}
    done = subprocess.run(["bash", "-c", command], cwd=clone / "codes", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def append_rows(file, rows: pd.DataFrame, **how):
    table = pd.read_csv(file, dtype=str, keep_default_na=False, **how)
    pd.concat([table, rows.astype(str)]).fillna("").to_csv(file, index=False, **how)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of codes/ with small hospitals beside it, of which the home hospital has trajectories."""
    root = tmp_path_factory.mktemp("clone")
    shutil.copytree(CODES, root / "codes", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    write_data(root / "data")
    concept = {"concept_id": STROKE, "concept_name": "Cerebral infarction", "domain_id": "Condition", "vocabulary_id": "SNOMED"}
    rows = pd.DataFrame([concept | {"concept_class_id": "Disorder", "standard_concept": "S", "concept_code": "stroke"}])
    append_rows(root / "data" / "concepts" / "CONCEPT.csv", rows, sep="\t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        patch.setenv("MEDREP_CONFIGS", "configs/demo")
        for stage in (persons, visits, records, deciles, trajectories):
            stage.main(["--hospital", "mimic"])
    return root


def test_all_how_tos_are_followed_here():
    assert list(how_tos()) == ["A hospital", "An outcome", "A representation arm", "A patient model", "A section of the report"]


def test_a_hospital_and_an_outcome_are_added(clone):
    mine = clone / "data" / "mine"
    shutil.copytree(clone / "data" / "ehrshot", mine)
    stays = pd.read_csv(mine / "visit_occurrence.csv")
    stays.assign(visit_concept_id=np.where(stays.person_id % 2, 38004515, 9201)).to_csv(mine / "visit_occurrence.csv", index=False)
    people = range(5, 41, 5)  # have a stroke on the second day, after the prediction time
    strokes = {"person_id": people, "condition_concept_id": STROKE, "condition_start_date": "2150-03-06"}
    strokes |= {"condition_start_datetime": "2150-03-06 10:00:00", "condition_type_concept_id": 32020}
    append_rows(mine / "condition_occurrence.csv", pd.DataFrame(strokes))

    follow(clone, "A hospital")
    usedata = clone / "usedata" / "mine"
    assert len(pd.read_parquet(usedata / "labels" / "MT")) == 40  # also those that the defaults take for outpatients
    kept = pd.read_parquet(usedata / "records")
    billed = kept[kept.concept_id == FEVER]
    assert len(billed) and (billed.time == pd.Timestamp("2150-03-06 18:00")).all()  # known when the stay ends
    assert (usedata / "audit.json").exists()

    follow(clone, "An outcome")
    labels = pd.read_parquet(usedata / "labels" / "Stroke")
    assert sorted(labels.subject_id[labels.boolean_value]) == list(people) and len(labels) == 40

    home = pd.read_parquet(usedata / "labels" / "Home").rename(columns={"subject_id": "person_id"})
    home = home.merge(pd.read_parquet(usedata / "visits"), on="person_id").merge(pd.read_parquet(usedata / "deaths"), on="person_id", how="left")
    home = home.query("start < prediction_time < end")
    assert len(home) == 40 and 0 < home.boolean_value.sum() < 40
    assert (home.boolean_value == ((home.end <= home.prediction_time + pd.Timedelta(days=2)) & ~(home.death_time <= home.end))).all()


def test_a_representation_arm_is_added(clone):
    folder = clone / "usedata" / "representation"
    folder.mkdir(parents=True)
    ids = [str(HBA1C), *(f"{HBA1C}_{i}" for i in range(10)), str(FEVER), str(ASPIRIN)]
    pd.DataFrame({"concept_id": ids}).to_csv(folder / "concept_idx.csv", index=False)
    vectors = np.random.default_rng(0).normal(size=(len(ids), 8)).astype(np.float32)
    np.save(folder / "concept_representation_description.npy", vectors)

    _, nearest = follow(clone, "A representation arm")
    shuffled = np.load(folder / "concept_representation_shuffled.npy")
    assert not np.array_equal(shuffled, vectors) and np.array_equal(np.sort(shuffled, axis=0), np.sort(vectors, axis=0))
    assert "aspirin" in nearest
    assert "is up to date" in run(clone, "python representation/shuffled.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", clone)
        assert concept_vectors.gather_vectors([str(FEVER)], "shuffled")[1].tolist() == ["own"]


def test_a_patient_model_is_added(clone):
    follow(clone, "A patient model")
    run_folder = clone / "results" / "mimic" / "pretraining" / "behrt-relu_none"
    assert json.loads((run_folder / "config.json").read_text())["hidden_act"] == "relu"
    assert len((run_folder / "log.jsonl").read_text().splitlines()) == 2


def test_a_section_of_the_report_is_added(clone):
    follow(clone, "A section of the report")
    page = (clone / "results" / "report" / "index.html").read_text()
    assert "Tokens by hospital" in page and "The vocabulary of ehrshot" in page
