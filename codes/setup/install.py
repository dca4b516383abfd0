"""Install what codes/setup/locks names into the virtual environment that runs this; codes/setup.sh calls it.

    .venv/bin/python codes/setup/install.py [--without-graph] [--spark]

1. torch, then what its metadata asks for: the CUDA packages (3 GB) only beside a CUDA build.
2. torch-scatter and torch-sparse are compiled (codes/setup/compile.py) while pip installs all the rest.
3. Their wheels are installed. They stay in .venv/wheels, in a folder for this torch: delete it to have them compiled anew.

pip compares every file with the lock's hashes. Whatever the tools say goes to .venv/setup.log, for the two that are compiled to
.venv/compile.log; a failure is one sentence with the line of the log that tells why. Only Python's standard library is there when this runs.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LOCKS = Path(__file__).parent / "locks"
VENV = Path(sys.prefix)
LOG, GRAPH_LOG = VENV / "setup.log", VENV / "compile.log"
GRAPH = "torch-scatter, torch-sparse"
REPORT_INTERVAL = 20  # seconds
REASON_PRINTED = 3  # compile.py's exit status when its last line is the reason
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
REMEDIES = (  # what pip's or the compiler's words mean, and what helps
    (
        r"DO NOT MATCH THE HASHES",
        "the file is not the one that was tested, so nothing of it was installed: look at which index pip uses "
        "(pip config list) and empty its cache (pip cache purge), or, if the new file is wanted, write the lock "
        "anew (codes/setup/lock.py)",
    ),
    (r"No space left", "free some space on this disk, or on that of TMPDIR"),
    (r"Killed|MemoryError|out of memory", "memory ran out: close other programs, or let fewer compilers run, with MAX_JOBS=1"),
    (
        r"No matching distribution|Could not find a version|Connection|[Tt]imed? ?out|HTTP error|resolve host|IncompleteRead|ProtocolError",
        "look at the network and at which index pip uses (pip config list)",
    ),
)
COMPILE_REMEDY = "choose another g++ (export CXX=g++-14), or leave the two out for now (--without-graph)"  # where none of REMEDIES fits
BEGIN = time.monotonic()
running, print_lock = set(), threading.Lock()


class Failed(Exception):
    """A step failed; the message is the sentence for the user, less the remedy."""


class CompileFailed(Failed):
    """The two packages cannot be compiled."""


def print_progress(text):
    seconds = int(time.monotonic() - BEGIN)
    with print_lock:
        print(f"setup: {seconds // 60}:{seconds % 60:02} {text}", flush=True)


def lines_of(file):
    return file.read_text(errors="replace").splitlines() if file.exists() else []


def pip_failure(text, log, first):
    """The failure of a pip whose words begin at line `first` of the log."""
    lines = lines_of(log)[first:]
    found = next((i for i, line in enumerate(lines) if line.startswith("ERROR:")), None)
    if found is None:
        found = next((i for i in reversed(range(len(lines))) if lines[i].strip()), 0)
    message = " ".join(lines[found : found + 1])
    if "DO NOT MATCH THE HASHES" in message:  # the package stands in the next line that names one
        message = "THESE PACKAGES DO NOT MATCH THE HASHES: " + next((line.strip() for line in lines[found + 1 :] if " from " in line), "")
    at = next((line.split()[1] for line in reversed(lines[:found]) if line.startswith("Collecting ")), None)
    return Failed(
        f"{text} cannot be installed{f', at {at}' if at else ''}: {message.removeprefix('ERROR: ').strip()} (line {first + found + 1} of {log})"
    )


def start(command, log, **kwargs):
    with log.open("a") as words:
        words.write(f"$ {' '.join(map(str, command))}\n")
        words.flush()
        # in a session of its own, so that its compilers end with it
        process = subprocess.Popen(command, stderr=words, cwd=REPOSITORY, start_new_session=True, **({"stdout": words} | kwargs))
    running.add(process)
    return process


def wait(process, timeout=None):
    code = process.wait(timeout)
    running.discard(process)
    return code


def end_all():
    for process in list(running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def count_unpacked(since):
    """Packages that pip has finished since then: INSTALLER is what it writes at the end."""
    return sum(file.stat().st_mtime >= since for file in Path(sysconfig.get_path("purelib")).glob("*.dist-info/INSTALLER"))


def pip(text, *arguments, packages=1, log=LOG):
    """Run pip until it is done; `packages` is how many it is asked for."""
    first, last, began = len(lines_of(log)), time.monotonic(), time.time()
    process = start([*PIP, *map(str, arguments)], log)
    while True:
        try:
            code = wait(process, timeout=1)
            break
        except subprocess.TimeoutExpired:
            if time.monotonic() > last + REPORT_INTERVAL:
                last, lines = time.monotonic(), lines_of(log)[first:]
                seen = [Path(line.split()[1]).name for line in lines if line.startswith(("Collecting ", "Processing "))]
                if any(line.startswith("Installing collected packages") for line in lines):
                    print_progress(f"{text}: unpacking, {count_unpacked(began)} of {packages} done")
                else:
                    print_progress(f"{text}: downloading, at {seen[-1]}, {len(seen)} of {packages}" if seen else f"{text}: pip has not begun yet")
    if code:
        raise pip_failure(text, log, first)


def install(text, lock, *arguments, takes="seconds"):
    """Install what a lock names; `takes` is how long that usually takes, on two cores and a fast network."""
    file = LOCKS / f"{lock}.txt"
    count = sum(line[:1].isalnum() for line in lines_of(file))
    print_progress(f"{text}: {count} package{'s' * (count > 1)}, usually {takes}")
    # no resolver: the lock names all that is needed, and CUDA's packages only where they are
    pip(text, "install", "--progress-bar=off", "--no-deps", "--require-hashes", *arguments, "-r", file, packages=count)
    print_progress(f"{text}: installed")


def forget_half_installed():
    """An interrupted pip leaves metadata that it would take for the package: at the end it writes INSTALLER, so that is missing."""
    for folder in Path(sysconfig.get_path("purelib")).glob("*.dist-info"):
        if not (folder / "INSTALLER").exists():
            print_progress(f"{folder.name.split('-')[0]} was left half-installed; it is installed again")
            shutil.rmtree(folder)


def installed(name):
    """The version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def without_bytecode():
    """The large packages of step 1. Python compiles them in step 2 (20 s), so that the compilers can begin."""
    return [Path(sysconfig.get_path("purelib")) / name for name in ("torch", "sympy", "networkx", "setuptools")]


def install_torch():
    """The torch that pip finds: PyPI's, or one that the user's pip is told of (pytorch.org's CPU build, a file on disk)."""
    pinned = next(line.split()[0] for line in lines_of(LOCKS / "torch.txt") if line.startswith("torch=="))
    if (installed("torch") or "").split("+")[0] != pinned.split("==")[1]:
        # First downloaded, then installed from the download: where pip knows an index's hash it prefers that index to a
        # file without one, and would take PyPI's build although a CPU build is at hand.
        folder = VENV / "build" / "torch"
        shutil.rmtree(folder, ignore_errors=True)
        print_progress("torch: downloading some hundred MB, as long as the network takes")
        pip("torch", "download", "--progress-bar=off", "--no-deps", "--dest", folder, pinned)
        install("torch", "torch", "--no-compile", "--no-index", "--find-links", folder, takes="half a minute")
        shutil.rmtree(folder)
    install("what torch needs", "base", "--no-compile")
    if any(name.startswith(("nvidia-", "cuda-")) for name in metadata.requires("torch") or []):
        install("CUDA for torch", "cuda", takes="as long as the network takes for 3 GB")


def compile_graph(build, wheels):
    """Have the wheels of torch-scatter and torch-sparse made; each line that compile.py prints goes to the user."""
    sources, lock = build / "sdists", LOCKS / "graph.txt"
    options = ("--progress-bar=off", "--no-deps", "--no-build-isolation", "--no-binary=:all:", "--require-hashes")
    pip(GRAPH, "download", *options, "--dest", sources, "-r", lock, packages=2, log=GRAPH_LOG)
    command = [sys.executable, Path(__file__).parent / "compile.py", sources, build, wheels, GRAPH_LOG]
    first = len(lines_of(GRAPH_LOG))
    process = start(command, GRAPH_LOG, stdout=subprocess.PIPE, text=True)
    line = ""
    for line in process.stdout or ():
        print_progress(f"{GRAPH}: {line.strip()}")
    if code := wait(process):
        raise CompileFailed(line.strip() if code == REASON_PRINTED else str(pip_failure(GRAPH, GRAPH_LOG, first)))


def compiled(wheels):
    """The wheels of the two packages in the lock's versions, once both are made."""
    pinned = [line.split()[0].replace("==", "-").replace("torch-", "torch_", 1) for line in lines_of(LOCKS / "graph.txt") if line[:1].isalpha()]
    found = [wheel for name in pinned for wheel in wheels.glob(f"{name}-*.whl")]
    return found if len(found) == len(pinned) else None


def install_graph(wheels):
    # also where the same version is installed: that may be compiled against another torch
    pip(GRAPH, "install", "--no-deps", "--no-index", "--force-reinstall", *(compiled(wheels) or ()), packages=2)
    # they load only beside the torch that they were compiled against
    tried = subprocess.run([sys.executable, "-c", "import torch_scatter, torch_sparse"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise Failed(f"{GRAPH} cannot be imported: {tried.stderr.strip().splitlines()[-1]}; delete {wheels}")
    print_progress(f"{GRAPH}: installed")


def main():
    without_graph, spark = "--without-graph" in sys.argv, "--spark" in sys.argv
    alone = (VENV / ".setup").open("w")  # held until this ends
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print_progress("another set-up is at work here; this one waits for it")
        fcntl.flock(alone, fcntl.LOCK_EX)
    LOG.unlink(missing_ok=True)
    GRAPH_LOG.unlink(missing_ok=True)
    print_progress(
        f"installing into {VENV.name}{' with Spark, as Java is here' if spark else ''}, the first time about "
        f"{'2' if without_graph else '7'} minutes on two idle cores; {LOG} has all that pip and the compilers say"
    )
    forget_half_installed()
    install_torch()
    build, wheels = (VENV / kind / f"torch-{installed('torch')}" for kind in ("build", "wheels"))
    with ThreadPoolExecutor(1) as beside:
        try:
            graph = None if without_graph or compiled(wheels) else beside.submit(compile_graph, build, wheels)
            bytecode = start([sys.executable, "-m", "compileall", "-qq", *without_bytecode()], LOG)
            install("packages", "packages", takes="1 to 2 minutes")
            if spark:
                # it is a source: its setup.py runs with the lock's setuptools
                install("Spark", "spark", "--no-build-isolation", takes="half a minute")
            pip("medrep", "install", "--no-deps", "--no-build-isolation", "-e", ".")
            wait(bytecode)
            if graph:
                graph.result()
        except BaseException:
            end_all()
            raise
    if not without_graph:
        install_graph(wheels)
        shutil.rmtree(VENV / "build", ignore_errors=True)


if __name__ == "__main__":
    again = "then run bash codes/setup.sh again, it goes on from here"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"setup: ended from outside; {again.removeprefix('then ')}"))
    try:
        main()
    except Failed as failure:
        otherwise = COMPILE_REMEDY if isinstance(failure, CompileFailed) else ""
        remedy = next((remedy for words, remedy in REMEDIES if re.search(words, str(failure))), otherwise)
        sys.exit("; ".join(filter(None, (f"setup: {failure}", remedy, again))))
    except KeyboardInterrupt:
        sys.exit(f"setup: interrupted; {again.removeprefix('then ')}")
    finally:
        end_all()
