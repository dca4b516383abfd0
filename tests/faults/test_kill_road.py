"""The road survives kills and full disks: a few of each here; kill_road.py takes as many as one likes."""

import os

import pytest

from .kill_road import kill_road
from .road import Command, byroads, differences, road

KILLS, FULL_DISKS = int(os.environ.get("KILLS", 10)), int(os.environ.get("FULL_DISKS", 6))


def test_killed_or_refused_a_write_at_random_every_command_ends_as_if_nothing_had_happened(tmp_path):
    report = kill_road(tmp_path, KILLS, FULL_DISKS)
    assert not report.wrong, "\n".join(report.wrong)
    assert report.kills >= KILLS and report.full_disks >= FULL_DISKS and report.trials >= (KILLS + FULL_DISKS) / 3


@pytest.mark.parametrize("damage", ["removed", "added", "flipped", "weights"])
def test_roots_that_differ_are_told_apart(tmp_path, damage):
    import numpy as np
    from safetensors.numpy import save_file

    roots = [tmp_path / name for name in ("expected", "found")]
    for place, root in enumerate(roots):
        folder = root / "usedata" / "h"
        folder.mkdir(parents=True)
        np.save(folder / "age.npy", np.arange(10))
        save_file({"w": np.arange(4.0)}, folder / "model.safetensors")
        (folder / ".locks").mkdir()
        (folder / ".locks" / "h.lock").write_text(str(place))
        (folder / "a.json").write_text(f'{{"auroc": NaN, "seconds": {place}}}')
    assert not differences(*roots)
    file = roots[1] / "usedata" / "h" / "age.npy"
    if damage == "removed":
        file.unlink()
    elif damage == "added":
        (file.parent / "labels.unfinished").touch()
    elif damage == "flipped":
        np.save(file, np.arange(10) ^ 1)
    else:
        save_file({"w": np.arange(4.0) + 1e-9}, file.with_name("model.safetensors"))
    assert len(differences(*roots)) == 1


def test_the_road_goes_through_every_stage_that_run_sh_runs():
    from preprocessing import all_stages
    from representation import all_stages as representation_stages

    scripts = {command.script for command in [*road(), *byroads()]} | {"preprocessing/database.py"}  # where there is PostgreSQL
    in_files = {f"preprocessing/{stage.__name__.rpartition('.')[2]}.py" for stage in all_stages.STAGES}
    planned = representation_stages.plan_stages(representation_stages.make_parser().parse_args(["--arms", "medrep", "description", "random"]))
    in_files |= {f"representation/{words[0]}.py" for words in planned}
    assert in_files <= scripts
    assert Command("a/b.py", ("-d", "cpu")).code == "import os\nimport a.b\na.b.main(['-d', 'cpu'])\n"
