"""What is said reaches who reads it, and no one who stops reading stops the work."""

import subprocess
import sys

from medrep import contract
from medrep.progress import print_line, timed_stage
from medrep.stamps import Stamp


def test_whoever_reads_only_the_first_lines_does_not_stop_the_work(tmp_path):
    words = "from medrep.progress import print_line\nfor i in range(20_000):\n    print_line('line', i)\nopen('done', 'w').write('yes')"
    command = f'set -o pipefail; PYTHONPATH={contract.REPOSITORY / "codes"} {sys.executable} -c "{words}" | head -1'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "line 0\n", "") and (tmp_path / "done").read_text() == "yes"


def test_where_the_paths_are_is_said_once_and_first(root, capsys):
    for stage in ("one", "two"):
        with timed_stage(stage):
            print_line("usedata/mimic")
    (root / "made").touch()
    stamp = Stamp(root / "made")
    stamp.record()
    assert stamp.is_current()
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"paths are below {root.resolve()}", "usedata/mimic"] and said[-1] == "made is up to date"
    assert len([line for line in said if str(root) in line]) == 1
