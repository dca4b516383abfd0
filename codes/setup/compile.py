"""Compile torch-scatter and torch-sparse against the torch that is installed, in minutes rather than in half an hour.

    .venv/bin/python codes/setup/compile.py SDISTS BUILD WHEELS LOG

Reads the two packages' sources in SDISTS, compiles in BUILD and writes their wheels to WHEELS; what the compilers say goes to LOG.
codes/setup/install.py calls it, and hands each line that it prints to the user. What is compiled in BUILD stays for the next run.

The packages' own setup.py compile one file after the other, and each file reads all of torch's headers: 28 minutes of work for
2,000 lines. So their setup.py are only asked for the commands; those run here, side by side, with three things changed that leave
the machine code as it is (-O3 stays):

    -g0          no debugging symbols; the packages' own linking throws them away
    headers      torch/script.h and torch/torch.h shrink to what the sources use: without the Python bindings, torch.nn, torch.optim,
                 datasets and the loading of saved models. A file took 14 s of CPU instead of 49 (convert_cpu.cpp) or 18 instead of 76
    precompiled  with gcc, these headers are read once, in 28 s; then the two files took 5 s and 13 s

A file that does not compile so is compiled again as its package wants it. CUDA sources (where nvcc is) stay as they are.
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HEADERS = {
    "torch/script.h": (
        "torch/csrc/api/include/torch/types.h",
        "torch/csrc/autograd/custom_function.h",
        "torch/csrc/autograd/generated/variable_factories.h",
        "torch/csrc/jit/runtime/custom_operator.h",
        "ATen/ATen.h",
    ),
    "torch/torch.h": ("torch/script.h",),
    "all.h": ("Python.h", "torch/script.h", "torch/torch.h"),
}
MEMORY = 1.5e9  # bytes for one compiler: gcc 12 took 1.1e9 at most, 1.5e9 for the precompiled header; with all of torch's headers 2.1e9
REPORT_INTERVAL = 20  # seconds
ERRORS = (r"\berror:|undefined reference", r"\berror\b")  # the second also finds a header that is called so


class Failed(Exception):
    """A command failed; the message is the sentence for the user."""


def exit_with_reason(message):
    print(message, flush=True)
    sys.exit(3)  # install.py's REASON_PRINTED


@contextlib.contextmanager
def redirect_output(log):
    """setup.py and what it calls write to the log: nobody asks for their words as long as all is well."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            for stream, before in zip((1, 2), kept, strict=True):
                os.dup2(before, stream)


def unpack(sdist, build):
    """The folder with the package's source; what an earlier run compiled there stays."""
    folder = build / sdist.name.removesuffix(".tar.gz")
    if not folder.exists():
        unfinished = build / "unpacking"
        with tarfile.open(sdist) as archive:
            archive.extractall(unfinished, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(unfinished)
        (unfinished / folder.name).rename(folder)
    return folder


def read_setup(folder, command, call=None):
    """The package's setup.py, read up to its commands. `call`, if given, gets what the compiler would be called with, instead."""
    import setuptools  # noqa: F401  provides distutils
    from distutils.core import run_setup  # isort: skip
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def build_extensions(self):
            if call:
                self.compiler.call = call
            self.objects = self.build_temp
            super().build_extensions()

        def build_extension(self, extension):
            # an extension's halves for CPU and for CUDA have one source, which would give one object
            self.build_temp = os.path.join(self.objects, extension.name)
            super().build_extension(extension)

    os.chdir(folder)
    package = run_setup("setup.py", [command], stop_after="commandline")
    # with ninja each extension would be compiled by itself, and again for the wheel
    package.cmdclass["build_ext"] = Build.with_options(no_python_abi_suffix=True, use_ninja=False)  # type: ignore[assignment] torch types it as any class
    return package


def ask_for_commands(folder):
    """The commands with which setup.py would compile and link what is not there yet, in its order. None of them runs."""
    commands = []
    read_setup(folder, "build_ext", lambda command, **_: commands.append([str(part) for part in command])).run_command("build_ext")
    return commands


def write_wheel(folder, wheels):
    """setup.py's own wheel; it finds everything compiled, and compiles what is not."""
    read_setup(folder, "bdist_wheel").run_command("bdist_wheel")
    for wheel in (folder / "dist").glob("*.whl"):
        wheel.replace(wheels / wheel.name)


def split_command(command):
    """The compiler, which may be several words (ccache g++), and its options."""
    first = next(i for i, part in enumerate(command) if part.startswith("-"))
    return command[:first], command[first:]


def compiles(command):
    """Whether the command compiles a file; the others link."""
    return "-c" in command


def source_of(command):
    """The source file of a command that compiles."""
    return Path(command[command.index("-c") + 1])


def output_of(command):
    return Path(command[command.index("-o") + 1])


def is_gcc(compiler):
    macros = subprocess.run([*compiler, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, check=False).stdout
    return "__GNUC__" in macros and "__clang__" not in macros


def free_memory():
    try:
        found = re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
    except OSError:  # not Linux
        found = None
    return int(found[1]) * 1024 if found else float("inf")


def count_jobs():
    """MAX_JOBS, as torch's own builds name it, or as many compilers as there are cores and memory for."""
    if given := os.environ.get("MAX_JOBS"):
        return max(1, int(given))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cores, free_memory() / MEMORY)))


class CommandRunner:
    """Runs commands, keeps what they say in one log, and counts the files for the user."""

    def __init__(self, build, log, files):
        self.log, self.lock = log, threading.Lock()
        self.headers, self.extra = build / "headers", []
        self.files, self.done, self.last_report = files, 0, time.monotonic()

    def run(self, folder, command, output):
        """Whether the command worked, and what it said. Its output file appears only when it is whole."""
        unfinished = output.with_name(f"unfinished-{output.name}")
        (folder / output).parent.mkdir(parents=True, exist_ok=True)
        command = [str(unfinished) if part == str(output) else part for part in command]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
        with self.lock, self.log.open("a") as log:
            log.write(f"$ {shlex.join(command)}\n{done.stdout}")
        if done.returncode == 0:
            (folder / unfinished).replace(folder / output)
        return done.returncode == 0, done.stdout

    def find_error(self, output_text):
        """The line of a failed command that tells most, and where it stands in the log."""
        lines = [line for line in output_text.splitlines() if line.strip()] or ["the command said nothing"]
        line = next((line for pattern in ERRORS for line in lines if re.search(pattern, line, re.I)), lines[-1])
        numbers = [number for number, one in enumerate(self.log.read_text(errors="replace").splitlines(), 1) if one == line]
        return f"{line.strip()} (line {(numbers or [1])[-1]} of {self.log})"

    def prepare_headers(self, folder, commands):
        """Put the small headers before torch's own in these commands, which compile C++."""
        for name, included in HEADERS.items():
            (self.headers / name).parent.mkdir(parents=True, exist_ok=True)
            (self.headers / name).write_text("".join(f"#include <{one}>\n" for one in included))
        compiler, options = split_command(commands[0])
        self.extra = [f"-I{self.headers}"]
        if len(commands) < 6:  # it would cost more than it saves
            return
        if not is_gcc(compiler):
            return print("the compiler is not gcc: nothing is precompiled, which takes longer", flush=True)
        print("torch's headers are read once for all files, which takes half a minute", flush=True)
        everything, precompiled = self.headers / "all.h", self.headers / "all.h.gch"
        # gcc takes a precompiled header only where the flags are the same: so it gets those that all the commands have.
        flags = [part for part in options if part not in ("-c", "-o") and all(part in other for other in commands)]
        command = [*compiler, *self.extra, *flags, "-g0", "-x", "c++-header", str(everything), "-o", str(precompiled)]
        if self.run(folder, command, precompiled)[0]:
            self.extra += ["-include", str(everything), "-Winvalid-pch"]
        else:
            print(f"torch's headers cannot be precompiled ({self.log} tells why), which takes longer", flush=True)

    def compile(self, folder, command):
        """Compile one file, unless an earlier run did."""
        source, output = source_of(command), output_of(command)
        if not (folder / output).exists():
            compiler, options = split_command(command)
            worked = False
            if source.suffix == ".cpp":
                # of several folders with headers the first counts, of several -g the last
                worked, output_text = self.run(folder, [*compiler, *self.extra, *options, "-g0"], output)
            if not worked:
                worked, output_text = self.run(folder, command, output)
            if not worked:
                raise Failed(f"{folder.name} cannot be compiled, {source}: {self.find_error(output_text)}")
        self.done += 1

    def report_progress(self, before=""):
        print(f"{before}{self.done} of {self.files} files compiled", flush=True)
        self.last_report = time.monotonic()

    def wait_for(self, tasks, before=""):
        """`before`: what is done before the first file, and is said in front of the count."""
        for task in tasks:
            while not task.done():
                time.sleep(0.2)
                if time.monotonic() > self.last_report + REPORT_INTERVAL:
                    self.report_progress(before)
            task.result()


def main():
    sdists, build, wheels, log = (Path(argument).resolve() for argument in sys.argv[1:])
    for folder in (build, wheels):
        folder.mkdir(parents=True, exist_ok=True)
    missing = [sdist for sdist in sorted(sdists.glob("*.tar.gz")) if not list(wheels.glob(f"{sdist.name.removesuffix('.tar.gz')}-*.whl"))]
    folders = [unpack(sdist, build) for sdist in missing]
    with redirect_output(log):
        commands = [(folder, command) for folder in folders for command in ask_for_commands(folder)]
    compiling = [(folder, command) for folder, command in commands if compiles(command)]
    compiling.sort(key=lambda one: -(one[0] / source_of(one[1])).stat().st_size)  # the long ones first, so that none is left alone at the end
    runner, jobs = CommandRunner(build, log, len(compiling)), count_jobs()
    print(f"{len(compiling)} files, {jobs} at a time, usually 2 to 5 minutes on two cores", flush=True)
    cpp = [(folder, command) for folder, command in compiling if source_of(command).suffix == ".cpp" and not (folder / output_of(command)).exists()]
    with ThreadPoolExecutor(jobs) as pool:
        try:
            if cpp:
                runner.wait_for([pool.submit(runner.prepare_headers, cpp[0][0], [command for _, command in cpp])], "torch's headers are still read; ")
            runner.wait_for([pool.submit(runner.compile, *one) for one in compiling])
        except Failed as failure:
            pool.shutdown(cancel_futures=True)
            exit_with_reason(str(failure))
    for folder, command in commands:
        if not compiles(command):
            worked, text = runner.run(folder, command, output_of(command))
            if not worked:
                exit_with_reason(f"{folder.name} cannot be linked: {runner.find_error(text)}")
    runner.report_progress()
    with redirect_output(log):
        for folder in folders:
            write_wheel(folder, wheels)


if __name__ == "__main__":
    main()
