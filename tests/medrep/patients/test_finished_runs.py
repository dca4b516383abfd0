"""What a run left in its folder is told from a finished run."""

import pytest

from medrep.errors import UserError
from medrep.patients import finished_runs


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over_and_says_so(root, capsys):
    folder, settings = root / "run", {"model": {"width": 16}}
    for begun in (False, True):
        assert not finished_runs.is_finished(folder, settings, fresh=False)
        assert ("run was begun, but has no checkpoint yet: it starts from the beginning" in capsys.readouterr().out) == begun
    (folder / "checkpoint.previous").mkdir()
    assert not finished_runs.is_finished(folder, settings, fresh=False) and "no checkpoint yet" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["settings.yaml", "config.yaml"])
def test_settings_that_are_cut_off_are_said_in_one_sentence(root, file):
    (root / "run").mkdir()
    (root / "run" / file).write_text("")
    with pytest.raises(UserError, match=f"run/{file} (is damaged: --fresh starts over|is not what was written: .* anew with --fresh)"):
        finished_runs.is_finished(root / "run", {"model": {"width": 16}}, fresh=False)


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"weightt"), lambda file: file.write_bytes(b"weight")])
def test_a_finished_run_whose_model_is_not_what_was_written_is_refused(root, damage):
    file = root / "run" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    finished_runs.mark_finished(root / "run", {"model": {"width": 16}})
    finished_runs.require_undamaged(root / "run")
    damage(file)
    with pytest.raises(
        UserError, match="run/model.safetensors is (not what was written|missing).*; bring it back, or make the run anew with --fresh"
    ):
        finished_runs.require_undamaged(root / "run")


@pytest.mark.parametrize("at", [0, 4, 12, 60, -3])
@pytest.mark.parametrize("cut", [False, True])
def test_a_finished_run_whose_settings_are_not_what_was_written_is_refused(root, at, cut):
    file = root / "run" / "config.yaml"
    finished_runs.mark_finished(root / "run", {"model": {"width": 16}, "inputs": {"usedata/x": "0123456789abcdef"}}, thresholds={"MT": 0.25})
    content = bytearray(file.read_bytes())
    assert finished_runs.read_run(root / "run")["run"]["thresholds"] == {"MT": 0.25}
    content[at] ^= 1
    file.write_bytes(content[:at] if cut else content)
    with pytest.raises(UserError, match="run/config.yaml is not what was written.*; bring it back, or make the run anew with --fresh"):
        finished_runs.read_run(root / "run")


def test_settings_of_an_earlier_version_have_no_checksum_and_are_read(root):
    (root / "run").mkdir()
    (root / "run" / "config.yaml").write_text("run: {seed: 1}\nmodel: {width: 16}\n")
    assert finished_runs.read_run(root / "run") == {"run": {"seed": 1}, "model": {"width": 16}}


@pytest.mark.parametrize("damaged", ['{"epoch": 1, "loss": 0.6}\n', '{"epoch": 1, "lo'])
def test_a_log_that_is_not_what_was_written_is_refused(root, damaged):
    log = root / "run" / "log.jsonl"
    log.parent.mkdir()
    log.write_text('{"epoch": 1, "loss": 0.5}\n')
    finished_runs.mark_finished(root / "run", {"model": {"width": 16}})
    assert finished_runs.read_log(log) == [{"epoch": 1, "loss": 0.5}]
    log.write_text(damaged)
    with pytest.raises(UserError, match="run/log.jsonl is not what was written"):
        finished_runs.read_log(log)
    log.unlink()
    finished_runs.require_undamaged(root / "run")  # a copy for the model alone


def test_of_several_processes_the_first_alone_starts_over_and_the_others_read_nothing_of_what_it_removes(root, monkeypatch):
    folder = root / "run"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "config.yaml").write_text("model: {width: 8}\n")  # of other settings: of no account
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert not finished_runs.is_finished(folder, {"model": {"width": 16}}, fresh=True)
        assert (folder / "checkpoint").exists() == (rank == "1")


def test_a_job_that_is_queued_again_starts_over_unless_it_has_begun(root, monkeypatch):
    """Stopped in its first seconds, before it came to --fresh, it must not take an old run for its own."""
    folder, settings = root / "run", {"model": {"width": 16}}

    def look(job, restarts):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        return finished_runs.is_finished(folder, settings, fresh=True)

    finished_runs.mark_finished(folder, settings)  # of long ago
    assert not look("7", "1")  # its first start came to nothing
    (folder / "checkpoint").mkdir()
    assert not look("7", "2") and (folder / "checkpoint").exists()  # it goes on
    assert not look("8", "0") and not (folder / "checkpoint").exists()  # another job
    finished_runs.mark_finished(folder, settings)
    assert look("8", "1")  # its machine failed after the end
    assert not look("8", "0")  # started by hand in a job, it starts over as asked
