"""Nothing grows from round to round; soak.py goes as many as one likes."""

import json
import subprocess
import sys

from medrep import contract

from .soak import State, growth


def test_preprocessing_three_times_in_one_process_leaves_nothing_more():
    command = [sys.executable, "tests/faults/soak.py", "--rounds", "3", "--only", "preprocessing", "--memory", "30"]
    done = subprocess.run(command, cwd=contract.REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["last"]["files"] > 50


def test_what_grows_is_named():
    first, second = State(100, 10, 1, 0, 0, 50), State(120, 10, 1, 0, 0, 50)
    assert not growth([first, second, State(124, 10, 1, 0, 0, 50)], memory_mb=5)
    assert growth([first, second, State(140, 11, 1, 1, 0, 51)], memory_mb=5) == [
        "open_files: 10 after the second round, 11 after the last",
        "processes: 0 after the second round, 1 after the last",
        "files: 50 after the second round, 51 after the last",
        "memory: 20.0 MB a round",
    ]
