"""What a run left in its folder is told from a finished run."""

from medrep.patients import finished_runs


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over_and_says_so(root, capsys):
    folder, settings = root / "run", {"model": {"width": 16}}
    for begun in (False, True):
        assert not finished_runs.is_finished(folder, settings, fresh=False)
        assert ("run was begun, but has no checkpoint yet: it starts from the beginning" in capsys.readouterr().out) == begun
    (folder / "checkpoint.previous").mkdir()
    assert not finished_runs.is_finished(folder, settings, fresh=False) and "no checkpoint yet" not in capsys.readouterr().out
