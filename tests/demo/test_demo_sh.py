"""The demo's own shell: a stand-in for Python says what it would have run, in which order, and what a failure ends."""

import os
import re
import shutil
import subprocess

import pytest

from medrep import contract


@pytest.fixture
def demo(tmp_path):
    """Runs demo.sh with a Python that prints its arguments, and fails where they match `fails`; gives exit status and calls."""
    shutil.copytree(contract.REPOSITORY / "codes", tmp_path / "codes", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (tmp_path / "codes" / "setup.sh").write_text("exit 0\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)

    def run(*arguments, fails="nothing"):
        python.write_text(f'#!/usr/bin/env bash\necho "CALL $*"\nif [[ "$*" == *"{fails}"* ]]; then exit 3; fi\n')
        python.chmod(0o755)
        done = subprocess.run(["bash", tmp_path / "codes" / "demo.sh", *arguments], capture_output=True, text=True)
        run.said, run.steps = done.stderr, re.findall(r"^demo: step (\d+) of (\d+): .", done.stdout, flags=re.M)
        return done.returncode, re.findall(r"^CALL (?!-c)(.*)$", done.stdout, flags=re.M)

    run.root = tmp_path

    return run


def place(calls, *words):
    """The one call with these words."""
    (found,) = [i for i, call in enumerate(calls) if all(f" {word} " in f" {call} " for word in words)]
    return found


def test_every_arm_has_its_vectors_before_it_is_pretrained_and_is_pretrained_before_it_is_finetuned(demo):
    status, calls = demo()
    assert status == 0 and calls[-1] == "experiments/report.py"
    for rep, vectors in (("none", "demo/hospitals.py"), ("description", "representation/all_stages.py"), ("medrep", "representation/all_stages.py")):
        made = place(calls, vectors)
        assert made < place(calls, "experiments/pretrain.py", rep) < place(calls, "experiments/finetune.py", "behrt", rep)
    assert place(calls, "experiments/finetune.py", "pooled", "none", "description", "medrep") > place(calls, "representation/all_stages.py")
    assert not [call for call in calls if "medtok" in call or "random" in call]


def test_an_arm_that_run_sh_does_not_know_is_refused_before_any_work(tmp_path):
    command = ["bash", contract.REPOSITORY / "codes/representation/run.sh", "--arms", "medrep", "gnn"]
    done = subprocess.run(command, env=os.environ | {"MEDREP_ROOT": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "--arms gnn is unknown; known are random, name, description, medrep, medtok, keep\n"


def test_all_trains_every_arm(demo):
    status, calls = demo("--all")
    assert status == 0 and calls[-1] == "experiments/report.py"
    pretrained = {re.search(r"--rep-type (\w+)", call)[1] for call in calls if "pretrain.py" in call}
    assert pretrained == {"none", "random", "name", "description", "medrep", "medtok", "keep"}
    assert place(calls, "pooled-gbm", "medtok", "keep", "lung_infection")
    assert place(calls, "--frozen") > max(i for i, call in enumerate(calls) if "pretrain.py" in call)


@pytest.mark.parametrize("arguments", [(), ("--all",), ("--real",)])
def test_each_step_says_its_number_of_how_many(demo, arguments):
    for name in ("eicu", "mimic", "concepts"):
        (demo.root / "data" / name).mkdir(parents=True)
    assert demo(*arguments)[0] == 0
    numbers = [(int(at), int(total)) for at, total in demo.steps]
    assert len(numbers) > 5 and numbers == [(place, len(numbers)) for place in range(1, len(numbers) + 1)]


def test_an_arm_that_fails_ends_the_demo_and_what_depends_on_it_is_not_begun(demo):
    status, calls = demo(fails="pretrain.py --model behrt --rep-type description")
    assert status != 0
    assert not [call for call in calls if "--rep-type description --outcome" in call or "experiments/report.py" in call]


def test_real_runs_every_pair_on_vectors_that_are_made_once(demo):
    status, calls = demo("--real")
    assert status == 1 and not calls
    assert demo.said.splitlines() == [
        "demo.sh --real: data/eicu is missing: python preprocessing/download.py eicu-demo brings it",
        "demo.sh --real: data/mimic is missing: python preprocessing/download.py mimic-demo brings it",
        "demo.sh --real: data/concepts is missing: download.py athena says where the vocabulary comes from",
    ]
    for name in ("eicu", "mimic", "concepts"):
        (demo.root / "data" / name).mkdir(parents=True)
    status, calls = demo("--real")
    assert status == 0, demo.said
    preprocessed = [call.split() for call in calls if call.startswith("preprocessing/all_stages.py")]
    pairs = [(call[2], call[3]) for call in preprocessed]
    assert pairs == [("eicu", "mimic"), ("mimic", "eicu"), ("eicu_west", "eicu_rest")]
    assert all(call[-1] == f"cohort.home={home}" for call, (home, _) in zip(preprocessed, pairs, strict=True))
    vectors = place(calls, "representation/all_stages.py")
    assert calls.index(" ".join(preprocessed[-1])) < vectors
    for home, external in pairs:
        of_pair = [i for i, call in enumerate(calls) if f"--external {external} " in f"{call} " and f"cohort.home={home}" in call]
        assert vectors < min(of_pair) and len([i for i in of_pair if "--model pooled" in calls[i]]) == 1
        usedata = demo.root / "demo" / "real" / f"{home}_to_{external}" / "usedata"
        assert (usedata / "representation").resolve() == (demo.root / "demo" / "real" / "vectors" / "usedata" / "representation").resolve()
    assert len([call for call in calls if call.startswith("experiments/compare.py")]) == len(pairs)
    status, again = demo("--real")
    assert status == 0 and sorted(again) == sorted(calls)  # links that are there stay
    assert not [call for call in calls if "demo/hospitals.py" in call]
