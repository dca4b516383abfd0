"""Which stages representation/run.sh runs, in which order, and which flags each gets. tests/test_real_data.py runs them whole, and twice."""

import types
from pathlib import Path

import pytest

from medrep.cdm import spill
from medrep.errors import UserError
from representation import all_stages

ENDS = [["random_vectors", "--unless-published"], ["evaluate", "--unless-published"]]


def planned(*flags):
    return all_stages.plan_stages(all_stages.make_parser().parse_known_args(flags)[0])


def test_all_arms_are_made_in_an_order_in_which_each_finds_what_it_reads():
    stages = [" ".join(command) for command in planned("--arms", "all")]
    assert set(stages) == {
        "concepts",
        "definitions",
        "encoder",
        "description",
        "description --text name",
        "edges",
        "graph",
        "medtok",
        "keep",
        "random_vectors --unless-published",
        "evaluate --unless-published",
    }
    assert stages[:5] == ["concepts", "definitions", "edges", "encoder", "description"] and stages[-1].startswith("evaluate")


def test_others_methods_are_made_where_asked_for():
    by_default, asked = ({stage for stage, *_ in planned(*flags)} for flags in ((), ("--arms", "medrep", "keep")))
    assert {"graph", "random_vectors", "description"} <= by_default and not {"medtok", "keep"} & by_default
    assert "keep" in asked and "medtok" not in asked


def test_arms_that_are_not_asked_for_are_not_made_but_for_what_others_read():
    assert planned("--arms", "medrep", "description") == [
        ["concepts"],
        ["definitions"],
        ["edges"],
        ["encoder"],
        ["description"],
        ["description", "--text", "name"],
        ["graph"],
        ["evaluate", "--unless-published"],
    ]
    with pytest.raises(UserError, match="--arms gnn is unknown; known are random, name"):
        planned("--arms", "medrep", "gnn")


@pytest.mark.parametrize("flag", ["--batch", "--dry-run"])
def test_what_asks_nothing_ends_after_the_definitions(flag):
    assert planned(flag, "--writer=openai") == [["concepts"], ["definitions", "--writer", "openai", flag]]


def test_each_flag_goes_to_the_stages_that_know_it_and_others_to_all(root, tmp_path, monkeypatch):
    calls, folders = [], []

    def import_module(name):
        def main(argv):
            assert not [folder for folder in folders if folder.exists()]  # what the stage before left
            calls.append([name.removeprefix("representation."), *argv])
            folders.append(Path(spill.temporary_folder()))
            (folders[-1] / "rows.parquet").touch()

        return types.SimpleNamespace(main=main)

    monkeypatch.setattr(all_stages.importlib, "import_module", import_module)
    monkeypatch.setenv("MEDREP_CALLED_FROM", str(tmp_path))
    (tmp_path / "out.jsonl").touch()
    (tmp_path / "bert").mkdir()
    flags = "--scope all --set graph.epochs=5 --gpu-devices 0 1 --pooling mean --model m --decile-calls --batch-results out.jsonl no.jsonl"
    all_stages.main([*flags.split(), "--arms", "medrep", "name", "random", "--encoder", "bert", "--memory=2GB"])
    everywhere, gpus = ["--set", "graph.epochs=5", "--memory=2GB"], ["--gpu-devices", "0", "1"]
    assert [call[: len(call) - 3] for call in calls if call[-3:] == everywhere] == [
        ["concepts", "--scope", "all"],
        ["definitions", "--model", "m", "--decile-calls", "--batch-results", str(tmp_path / "out.jsonl"), "no.jsonl"],
        ["edges"],
        ["encoder", "--encoder", str(tmp_path / "bert"), *gpus],
        ["description", "--pooling", "mean", *gpus],
        ENDS[0],
        ["description", "--text", "name", "--pooling", "mean", *gpus],
        ["graph", *gpus],
        ENDS[1],
    ]
    assert len(calls) == 9
