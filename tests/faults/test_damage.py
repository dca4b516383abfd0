"""A file that is cut off or has a flipped byte between two stages: whoever reads it next names it, with the command that makes it anew.

DAMAGES=200 in the environment damages as many files as one likes, of all commands of the road, at random.
"""

import json
import os
import random
import shlex
from pathlib import Path

import pytest
import yaml

from medrep import contract

from ..forked import Forked
from .chance import chance_of
from .kill_road import go_once, run_to_its_end
from .road import Command, copy_root, differences, environment_of, road

DAMAGES = int(os.environ.get("DAMAGES", 8))
FIGURES = {
    "usedata/mimic/counts/measurement.json": "preprocessing/site_report.py",
    "usedata/mimic/ages.json": "preprocessing/site_report.py",
    "usedata/mimic/unmapped.json": "preprocessing/site_report.py",
    "usedata/mimic/site.json": "experiments/report.py",
    "usedata/mimic/audit.json": "experiments/report.py",
    "usedata/mimic/labels/MT.flow.json": "experiments/report.py",
    "results/mimic/finetuning/behrt_medrep/MT/seed_100/metrics_mimic.json": "experiments/finetune.py -d cpu --model pooled",
    "results/mimic/finetuning/behrt_medrep/MT/seed_100/predictions_mimic.parquet": "experiments/compare.py",
    "results/mimic/finetuning/behrt_medrep/MT/seed_100/predictions_ehrshot.parquet": "experiments/vocabulary_coverage.py",
    "results/mimic/finetuning/behrt_medrep/MT/seed_100/features_mimic.csv": "experiments/report.py",
    "results/summary.csv": "experiments/compare.py",
    "results/comparison.csv": "experiments/report.py",
    "results/coverage_mimic_ehrshot.csv": "experiments/report.py",
    "results/coverage_auroc_mimic_ehrshot.csv": "experiments/report.py",
}
"""{figures: a command that reads them}"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return go_once(tmp_path_factory.mktemp("gone"), road())


def stamps_in(root: Path) -> dict[str, dict]:
    """{output: what its stamp says}, and of finished runs what config.yaml says."""
    found = {}
    for file in (root / "usedata").rglob(".*.made.json"):
        if "inputs" in (stamp := json.loads(file.read_text())):  # not of figures, whose checksums are all that is known of them
            found[str(file.parent.relative_to(root) / file.name[1:].removesuffix(".made.json"))] = stamp
    for file in (root / "results").rglob("config.yaml"):
        content = yaml.safe_load(file.read_text())
        found[str(file.relative_to(root))] = {"inputs": content["inputs"], "files": content["run"]["files"]}
    return found


def input_files(step, outputs: dict[str, int]) -> list[tuple[str, str]]:
    """(file, output that it is of) of all that the step reads of what earlier commands wrote, below the root."""
    before, after = stamps_in(step.before), stamps_in(step.after)
    inputs = {name for output in after.keys() - before.keys() for name in after[output]["inputs"]} & set(outputs)
    found = []
    for name in sorted(inputs):
        beside = str(Path(name).parent)
        found += [(f"{beside}/{file}", name) for file in (*before[name]["files"], *([Path(name).name] if name.startswith("results/") else []))]
    return found


def damage(file: Path, chance: random.Random) -> str:
    """Cut it off or flip a bit of it, and half of the time set its times back; how, in words."""
    before, content = file.stat(), bytearray(file.read_bytes())
    if chance.random() < 0.4 and content:
        content = content[: chance.randrange(len(content))]
        how = f"{file.name} cut off at {len(content):,} of {before.st_size:,} bytes"
    else:
        place = chance.randrange(len(content))
        content[place] ^= 1 << chance.randrange(8)
        how = f"{file.name} with a flipped bit at {place:,}"
    file.write_bytes(content)
    if chance.random() < 0.5:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return how


def test_a_damaged_file_is_named_by_whoever_reads_it_and_made_anew_by_the_command_that_is_named(steps, tmp_path):
    chance = chance_of("damage")
    outputs: dict[str, int] = {}
    for number, step in enumerate(steps):
        outputs |= dict.fromkeys(stamps_in(step.after).keys() - outputs.keys(), number)
    cases = [(step, file, output) for step in steps for file, output in input_files(step, outputs)]
    assert len(cases) > 100 and len({output for _, _, output in cases}) > 15
    root, unnoticed = tmp_path / "root", []
    for step, file, output in chance.sample(cases, DAMAGES) if len(cases) >= DAMAGES else chance.choices(cases, k=DAMAGES):
        copy_root(step.before, root)
        how = damage(root / file, chance)
        process = Forked(step.command.code, environment=environment_of(root))
        _, errors = process.communicate(timeout=300)
        sentence = errors.strip().splitlines()[-1] if errors.strip() else ""
        # what may be published files that a user put there is not judged by its size
        removed = "remove it" in sentence and Path(file).name.startswith("concept_")
        if process.returncode != 1 or file not in sentence or "Traceback" in errors or not (removed or "anew" in sentence):
            unnoticed.append(f"{step.command} with {how} of {output}: {process.returncode} {errors[-500:]}")
            continue
        if removed:
            (root / file).unlink()
        flags = ("--fresh",) if output.startswith("results/") else ()
        maker = steps[outputs[output]].command
        run_to_its_end(Command(maker.script, (*maker.flags, *flags)), root)
        run_to_its_end(step.command, root)
        unnoticed += [f"{step.command} after {how} of {output} was made anew: {line}" for line in differences(step.after, root)]
    assert not unnoticed, "\n".join(unnoticed)


def change_a_digit(file: Path, chance: random.Random):
    """Another digit in the place of one, and the file's times as they were."""
    before, content = file.stat(), bytearray(file.read_bytes())
    place = chance.choice([place for place, byte in enumerate(content) if byte in b"0123456789"])
    content[place] = chance.choice([digit for digit in b"0123456789" if digit != content[place]])
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_changed_digit_in_figures_is_named_by_whoever_reads_them_and_they_are_made_anew(steps, tmp_path):
    chance, root, unnoticed = chance_of("digits"), tmp_path / "root", []
    made_anew = set(chance.sample(sorted(FIGURES), min(len(FIGURES), max(1, DAMAGES // 8))))
    for file, reader in FIGURES.items():
        step = next(step for step in steps if str(step.command).startswith(reader) and (step.before / file).exists())
        copy_root(step.before, root)
        if not any(byte in b"0123456789" for byte in (root / file).read_bytes()):
            (root / file).write_text('{"codes": {"x": 1}}')  # nothing is unmapped here
        else:
            change_a_digit(root / file, chance)
        process = Forked(step.command.code, environment=environment_of(root))
        _, errors = process.communicate(timeout=300)
        sentence = errors.strip().splitlines()[-1] if errors.strip() else ""
        if process.returncode != 1 or file not in sentence or "Traceback" in errors or "anew" not in sentence:
            unnoticed.append(f"{step.command} with another digit in {file}: {process.returncode} {errors[-500:]}")
        elif file in made_anew:
            maker = next(maker for maker in steps if (maker.after / file).exists()).command
            run_to_its_end(maker, root)
            run_to_its_end(step.command, root)
            unnoticed += [f"{step.command} after {file} was made anew: {line}" for line in differences(step.after, root)]
    assert not unnoticed, "\n".join(unnoticed)


def test_the_command_that_is_named_can_be_typed(tmp_path):
    """Through a real process, as the name of the script and its flags are what the sentence has."""
    import subprocess
    import sys

    from .road import write_root

    write_root(tmp_path)

    def run(words):
        environment = os.environ | environment_of(tmp_path) | {"PYTHONPATH": str(contract.REPOSITORY / "codes")}
        command = [sys.executable, *shlex.split(words)[1:]]
        return subprocess.run(command, cwd=contract.REPOSITORY / "codes", env=environment, capture_output=True, text=True)

    for stage in ("persons", "visits"):
        assert run(f"python preprocessing/{stage}.py --hospital mimic --set cohort.min_age=20").returncode == 0
    (file,) = (tmp_path / "usedata" / "mimic" / "visits").iterdir()
    os.truncate(file, file.stat().st_size - 200)
    reader = "python preprocessing/records.py --hospital mimic --set cohort.min_age=20"
    refused = run(reader)
    assert refused.returncode == 1 and f"usedata/mimic/visits/{file.name} has" in refused.stderr
    command = refused.stderr.split("; ")[1].split(" makes it anew")[0]
    assert command == "python preprocessing/visits.py --hospital mimic --set cohort.min_age=20"
    assert run(command).returncode == 0 and run(reader).returncode == 0


@pytest.mark.parametrize("how", [0.0, 0.9])
def test_damage_changes_a_file(tmp_path, how):
    class Chance(random.Random):
        def random(self):
            return how

    file = tmp_path / "a"
    file.write_bytes(bytes(range(100)))
    assert damage(file, Chance(0)) and file.read_bytes() != bytes(range(100))
