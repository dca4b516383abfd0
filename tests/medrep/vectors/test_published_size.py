"""Files of the published size, sparse on disk: opened and a hospital's rows gathered in little memory, reading little else."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from medrep import contract, storage

PLAIN, WITH_DECILES, WIDTH = 5_000_000, 220_000, 768  # 7.2 million rows
ROWS = PLAIN + 10 * WITH_DECILES

SCRIPT = """
import json, re, sys
from pathlib import Path
import numpy as np
from medrep import contract
from medrep.vectors import concept_vectors
contract.ROOT = Path(sys.argv[1])

def status(file, name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self", file).read_text())[1])

read = status("io", "rchar")
ids, array = concept_vectors.open_vectors("medrep")
opened, mapped = status("io", "rchar") - read, isinstance(array, np.memmap)
tokens = ids.take(np.random.default_rng(0).permutation(len(ids))[:30_000]).to_pylist()
read = status("io", "rchar")
vectors, how = concept_vectors.gather_vectors(tokens, "medrep")
gathered = status("io", "rchar") - read
# not ru_maxrss: that remembers the process which started this one
peak = 1024 * status("status", "VmHWM")
print(json.dumps({"rows": len(ids), "shape": array.shape, "mapped": mapped, "opened": opened, "gathered": gathered, "peak": peak,
                  "own": int((how == "own").sum()), "marked": float(vectors.max())}))
"""


@pytest.fixture
def sparse_release(root):
    base = np.arange(1, PLAIN + 1) * 9 + 10**6
    ids = [*map(str, base.tolist()), *(f"{i}_{d}" for i in base[:WITH_DECILES].tolist() for d in range(10))]
    storage.make_folder(contract.representation_folder())
    contract.concept_index_file().write_text("concept_id\n" + "\n".join(ids) + "\n")
    path = contract.concept_array_file("medrep")
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (ROWS, WIDTH)})
        size = file.tell() + ROWS * WIDTH * 4
    try:
        os.truncate(path, size)
    except OSError as problem:
        pytest.skip(f"the filesystem has no sparse files ({problem.strerror})")
    if path.stat().st_blocks * 512 > size // 10:
        pytest.skip("the filesystem has no sparse files")
    return root


def test_the_published_files_are_mapped_and_of_the_array_a_hospitals_rows_alone_are_read(sparse_release):
    index = contract.concept_index_file().stat().st_size
    assert contract.concept_array_file("medrep").stat().st_size > 22e9 and index > 60e6
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(sparse_release)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(contract.REPOSITORY / "codes")},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == ROWS and found["own"] == 30_000
    assert found["mapped"] and found["opened"] < 1.2 * index + 2**20, found  # the index, and of the array its header
    assert 30_000 * WIDTH * 4 <= found["gathered"] < 30_000 * WIDTH * 4 + 1.2 * index + 2**20, found  # the index again, and the rows
    assert found["peak"] < 2**30, found
