"""codes/setup.sh says what is missing before it installs anything, takes up where an earlier run failed, and takes no time when nothing changed.

A fake pip stands for the network: it writes down how it was called and leaves the metadata that the real one would.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
TOOLS = ("bash", "cat", "cksum", "dirname", "grep", "rm")
FAKE_PIP = """
import os, re, sys
from pathlib import Path
clone = Path(sys.prefix).parent
arguments = sys.argv[1:]
if "--version" in arguments:
    sys.exit()
with (clone / "pip.log").open("a") as log:
    print(*(Path(one).name if "/" in one else one for one in arguments), file=log)
def after(option):
    return Path(arguments[arguments.index(option) + 1])
def leave(name, version):
    folder = Path(__file__).parent.parent / f"{name}-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    asks = (clone / "torch-asks").read_text() if name == "torch" else ""
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n{asks}")
    (folder / "INSTALLER").write_text("pip")
    (Path(__file__).parent.parent / f"{name}.py").write_text("")
words = clone / "pip-fails"
if words.exists() and words.read_text().split("\\n")[0] in " ".join(arguments):
    print(words.read_text().split("\\n", 1)[1])
    sys.exit(1)
if "download" in arguments:
    after("--dest").mkdir(parents=True, exist_ok=True)
elif "-r" in arguments:
    for name, version in re.findall(r"^([\\w-]+)==(\\S+)", after("-r").read_text(), re.M):
        leave(name, "2.13.0+cpu" if name == "torch" else version)
for one in arguments:
    if one.endswith(".whl"):
        leave(*Path(one).name.split("-")[:2])
"""
FAKE_COMPILE = """
import sys
from pathlib import Path
sdists, build, wheels, log = map(Path, sys.argv[1:])
clone = Path(sys.prefix).parent
with log.open("a") as words:
    words.write("g++ ...\\nscatter.cpp:7:1: error: no such thing\\n")
print("1 of 2 files compiled")
if (clone / "compile-fails").exists():
    number = len(log.read_text().splitlines())
    sys.exit(print(f"torch_scatter-2.1.2 cannot be compiled, scatter.cpp: error: no such thing (line {number} of {log})") or 3)
wheels.mkdir(parents=True, exist_ok=True)
for name in ("torch_scatter-2.1.2", "torch_sparse-0.6.18"):
    (wheels / f"{name}-cp311-cp311-linux_x86_64.whl").write_text("")
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with what setup.sh reads, and a PATH with the tools it uses; Python and a compiler are not among them."""
    shutil.copytree(REPOSITORY / "codes" / "setup", tmp_path / "codes" / "setup", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()
    for name in ("codes/setup.sh", "requirements.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


@pytest.fixture
def ready(clone):
    """The clone on a machine that has all it takes: Python, a compiler, and pip and the compiling faked as above."""
    put(clone, "python3", f'exec {sys.executable} "$@"')
    put(clone, "c++", "exit 0")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    pip = next(clone.glob(".venv/lib/python*/site-packages")) / "pip"
    pip.mkdir()
    (pip / "__main__.py").write_text(FAKE_PIP)
    (clone / "codes" / "setup" / "compile.py").write_text(FAKE_COMPILE)
    (clone / "torch-asks").write_text("Requires-Dist: filelock\n")
    return clone


def put(clone, name, script):
    file = clone / "bin" / name
    file.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    file.chmod(0o755)


def setup(clone, *arguments, **env):
    done = subprocess.run(
        [shutil.which("bash"), clone / "codes" / "setup.sh", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": str(clone / "bin"), **env},
    )
    return done.returncode, done.stdout + done.stderr


def calls_of_pip(clone):
    """What pip was called for since the last look."""
    log = clone / "pip.log"
    calls = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return calls


def installed_locks(calls):
    return [call.split()[-1] for call in calls if " install " in call and " -r " in call]


def must_refuse(found, words):
    code, text = found
    assert code != 0 and len(text.splitlines()) == 1 and words in text, (code, text)


def must_fail(clone, *words):
    """set-up fails, its last line is one sentence with these words and with how to go on, and nothing is taken for an installation."""
    code, text = setup(clone)
    last = text.splitlines()[-1]
    assert code != 0 and all(word in last for word in words) and "run bash codes/setup.sh again" in last, (code, text)
    number, log = re.search(r"\(line (\d+) of (.*?)\)", last).groups()
    assert re.search("ERROR|Error|error:", Path(log).read_text().splitlines()[int(number) - 1])
    assert not (clone / ".venv" / ".installed").exists()


def test_without_python(clone):
    must_refuse(setup(clone), "install Python 3.11 or newer")
    must_refuse(setup(clone, PYTHON="python3.99"), "install Python 3.11 or newer")


def test_another_python_than_that_of_the_environment_is_not_passed_over(ready):
    put(ready, "python3.99", f'if [ "$1" = --version ]; then echo Python 3.99.0; else exec {sys.executable} "$@"; fi')
    must_refuse(setup(ready, PYTHON="python3.99"), "not of Python 3.99.0: rm -rf .venv")
    assert setup(ready)[0] == 0  # and one that is whole
    must_refuse(setup(ready, PYTHON="python3.99"), "not of Python 3.99.0: rm -rf .venv")
    assert setup(ready, PYTHON="python3")[0] == 0


def test_python_too_old(clone):
    put(clone, "python3", 'if [ "$1" = --version ]; then echo Python 3.9.2; else exit 1; fi')
    must_refuse(setup(clone), "Python 3.9.2 is too old: install Python 3.11")


def test_without_compiler(clone):
    (clone / "bin" / "python3").symlink_to(sys.executable)
    must_refuse(setup(clone), "a C++ compiler is missing")


def test_without_headers(clone):
    """As on Debian without python3-dev. This Python answers every question, but its headers lie nowhere."""
    put(clone, "python3", 'case "$2" in *sysconfig*) echo /nowhere;; esac')
    put(clone, "c++", "exit 0")
    must_refuse(setup(clone), "Python's headers are missing")


def test_without_venv(clone):
    put(clone, "python3", f'case "$2" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac')
    put(clone, "c++", "exit 0")
    must_refuse(setup(clone), "Python's venv is missing")


def test_an_unknown_argument_is_refused(clone):
    must_refuse(setup(clone, "--fast"), "unknown argument --fast")


def test_an_installation_that_failed_is_not_taken_for_one(clone):
    put(clone, "python3", f'case "$2" in venv) mkdir -p .venv/bin;; *) exec {sys.executable} "$@";; esac')
    put(clone, "c++", "exit 0")
    code, _ = setup(clone)
    assert code != 0 and not (clone / ".venv" / ".installed").exists()


def test_everything_is_installed_with_hashes_and_once(ready):
    code, said = setup(ready)
    calls = calls_of_pip(ready)
    assert code == 0, said
    assert installed_locks(calls) == ["torch.txt", "base.txt", "packages.txt"]
    assert all("--require-hashes" in call for call in calls if " -r " in call)
    # the two that are compiled come last, from their wheels; the package itself may need no network
    assert "torch_scatter-2.1.2" in calls[-1] and "torch_sparse-0.6.18" in calls[-1] and "--no-index" in calls[-1]
    assert any(call.endswith("--no-deps --no-build-isolation -e .") for call in calls)
    assert "torch-scatter, torch-sparse: 1 of 2 files compiled" in said and ".venv/setup.log" in said
    assert "OMP_WAIT_POLICY" in (ready / ".venv" / "bin" / "activate").read_text()
    assert setup(ready) == (0, "") and not calls_of_pip(ready)
    for name in ("python3", "c++"):
        (ready / "bin" / name).unlink()
    assert setup(ready) == setup(ready, "--without-graph") == (0, "")
    (ready / "codes" / "setup" / "locks" / "packages.txt").write_text("numpy==0\n")
    must_refuse(setup(ready), "install Python")


def test_a_long_step_says_how_long_it_usually_takes_and_how_far_it_is(ready):
    install = ready / "codes" / "setup" / "install.py"
    install.write_text(install.read_text().replace("REPORT_INTERVAL = 20", "REPORT_INTERVAL = 0"))
    pip = next(ready.glob(".venv/lib/python*/site-packages")) / "pip" / "__main__.py"
    (ready / "codes" / "setup" / "locks" / "packages.txt").write_text("numpy==2\npandas==3\nscipy==1\n")
    slow = "import time; print('Collecting numpy==2', flush=True); time.sleep(2); print('Installing collected packages: numpy', flush=True)"
    pip.write_text(f"{FAKE_PIP}\nif 'packages.txt' in ' '.join(arguments):\n    {slow}; time.sleep(2)\n")
    code, said = setup(ready)
    assert code == 0
    lines = [line.split(" ", 2)[2] for line in said.splitlines() if " packages: " in line]
    assert lines[0] == "packages: 3 packages, usually 1 to 2 minutes" and lines[-1] == "packages: installed"
    assert "packages: downloading, at numpy==2, 1 of 3" in lines and "packages: unpacking, 3 of 3 done" in lines


def test_cuda_comes_only_with_a_torch_that_asks_for_it(ready):
    (ready / "torch-asks").write_text('Requires-Dist: nvidia-cudnn-cu13==9.20.0.48; platform_system == "Linux"\n')
    assert setup(ready)[0] == 0
    assert installed_locks(calls_of_pip(ready)) == ["torch.txt", "base.txt", "cuda.txt", "packages.txt"]


def test_spark_is_installed_once_java_is_there(ready):
    code, said = setup(ready)
    assert code == 0 and "Spark" not in said and "spark.txt" not in installed_locks(calls_of_pip(ready))
    put(ready, "java", "exit 0")
    code, said = setup(ready)
    assert code == 0 and "with Spark, as Java is here" in said and installed_locks(calls_of_pip(ready))[-1] == "spark.txt"
    assert setup(ready) == (0, "")


def test_without_graph_all_else_is_ready_without_a_compiler_and_a_second_run_adds_it(ready):
    (ready / "bin" / "c++").unlink()
    code, said = setup(ready, "--without-graph")
    assert code == 0 and "torch-scatter" not in said and "packages.txt" in installed_locks(calls_of_pip(ready))
    assert not (ready / ".venv" / ".installed").exists()
    assert setup(ready, "--without-graph") == (0, "")
    must_refuse(setup(ready), "a C++ compiler is missing")
    put(ready, "c++", "exit 0")
    assert setup(ready)[0] == 0
    assert "torch_scatter-2.1.2" in calls_of_pip(ready)[-1]
    assert setup(ready) == (0, "")


def test_a_failed_compile_names_package_and_line_and_the_rest_stays(ready):
    (ready / "compile-fails").touch()
    must_fail(ready, "torch_scatter-2.1.2 cannot be compiled", "scatter.cpp: error: no such thing", ".venv/compile.log", "CXX=", "--without-graph")
    assert "packages.txt" in installed_locks(calls_of_pip(ready))
    (ready / "compile-fails").unlink()
    assert setup(ready)[0] == 0
    calls = calls_of_pip(ready)
    assert "torch_sparse-0.6.18" in calls[-1]
    assert "torch.txt" not in installed_locks(calls)  # it was there


def test_a_broken_compiler_is_named_with_the_line_too(ready):
    """Then it is not compile.py that says why, but Python's traceback."""
    (ready / "codes" / "setup" / "compile.py").write_text("raise FileNotFoundError('no g++')")
    must_fail(ready, "torch-scatter, torch-sparse cannot be installed", "FileNotFoundError: no g++", "CXX=")


def test_a_known_cause_has_its_own_remedy(ready):
    (ready / "codes" / "setup" / "compile.py").write_text("raise OSError(28, 'No space left on device')")
    must_fail(ready, "free some space")
    assert "CXX" not in setup(ready)[1]


def test_what_was_compiled_is_not_compiled_again(ready):
    assert setup(ready)[0] == 0
    (ready / ".venv" / ".installed").unlink()
    (ready / "compile-fails").touch()
    assert setup(ready)[0] == 0


@pytest.mark.parametrize(
    "call, pip_says, words",
    [
        (
            "packages.txt",
            "Collecting duckdb==1.5.6\nERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n    duckdb==1.5.6 from https://"
            "index/duckdb.whl:\n        Expected sha256 a\n             Got        b",
            ("duckdb==1.5.6 from https://index/duckdb.whl", "not the one that was tested", "pip config list"),
        ),
        (
            "download",
            "ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)\nERROR: No matching distribution",
            ("torch cannot be installed", "requirement torch==2.13.0", "network"),
        ),
        (
            "base.txt",
            "Collecting sympy\nERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            ("at sympy", "free some space"),
        ),
        ("graph.txt", "Collecting torch-sparse\nurllib3.exceptions.ReadTimeoutError: Read timed out.", ("at torch-sparse", "network", "compile.log")),
    ],
)
def test_a_failed_download_names_package_line_and_remedy(ready, call, pip_says, words):
    (ready / "pip-fails").write_text(f"{call}\n{pip_says}")
    must_fail(ready, *words)
    (ready / "pip-fails").unlink()
    assert setup(ready)[0] == 0 and setup(ready) == (0, "")


def test_a_half_installed_package_is_not_taken_for_one(ready):
    """pip was killed while it unpacked torch: the metadata is there, but not what pip writes at the end."""
    half = next(ready.glob(".venv/lib/python*/site-packages")) / "torch-2.13.0+cpu.dist-info"
    half.mkdir()
    (half / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cpu\n")
    code, said = setup(ready)
    assert code == 0 and "torch was left half-installed" in said and "torch.txt" in installed_locks(calls_of_pip(ready))


def requirements():
    return dict(re.findall(r"^([\w-]+)[^=\n]*==(\S+)", (REPOSITORY / "requirements.txt").read_text(), re.M))


def test_the_lock_has_every_requirement_in_its_version_with_hashes():
    locked = {}
    for file in (REPOSITORY / "codes" / "setup" / "locks").glob("*.txt"):
        text = "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#"))
        assert "file:" not in text and "/" not in text
        for entry in re.split(r"\n(?=\S)", text):
            name, version = re.match(r"([\w.-]+)==(\S+)", entry).groups()
            assert "--hash=sha256:" in entry, name
            assert (file.name == "cuda.txt") == name.startswith(("nvidia-", "cuda-", "triton")), name
            locked.setdefault(name, set()).add(version)
    spark = re.search(r"pyspark==([\d.]+)", (REPOSITORY / "pyproject.toml").read_text())[1]
    wanted = {name.lower(): version for name, version in requirements().items()} | {"pyspark": spark}
    assert {name: locked[name] for name in wanted} == {name: {version} for name, version in wanted.items()}


def test_medrep_asks_for_what_it_needs_to_be_imported(tmp_path):
    """`pip install .` compiles nothing: torch-scatter and torch-sparse are an extra."""
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    packages = {folder.parent.relative_to(REPOSITORY / "codes") for folder in (REPOSITORY / "codes" / "medrep").rglob("__init__.py")}
    for package in packages:
        (tmp_path / "codes" / package).mkdir(parents=True, exist_ok=True)
        (tmp_path / "codes" / package / "__init__.py").touch()
    (tmp_path / "codes" / "medrep" / "py.typed").touch()
    build = "import setuptools.build_meta as b; print(b.build_wheel('.'))"
    wheel = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    shutil.unpack_archive(tmp_path / wheel, tmp_path / "wheel", "zip")
    assert {file.parent.relative_to(tmp_path / "wheel") for file in (tmp_path / "wheel").rglob("__init__.py")} == packages
    assert (tmp_path / "wheel" / "medrep" / "py.typed").exists()
    asked = re.findall(r"^Requires-Dist: ([^;\n]+)$", next(tmp_path.glob("wheel/*.dist-info/METADATA")).read_text(), re.M)
    first, *others = (REPOSITORY / "requirements.txt").read_text().split("\n# for ")
    assert asked == [line for line in first.splitlines() if not line.startswith("#")] and asked[0].startswith("torch==")
    assert "torch-scatter==" in others[0]


TOY_SETUP = """
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension
setup(name="toy_package", version="1.0", cmdclass={"build_ext": BuildExtension},
      ext_modules=[CppExtension(f"toy_package._{name}_{half}", [f"csrc/{name}.cpp"], define_macros=[("HALF", half)])
                   for name in ("one", "two") for half in ("cpu", "cuda")])
"""
TOY = '#include "answer.h"\n#define WORD(a) #a\n#define TEXT(a) WORD(a)\nextern "C" const char *NAME() { return "half=" TEXT(HALF) ANSWER; }\n'


@pytest.fixture
def toy(tmp_path):
    """A package as source, with two halves of each extension as torch-scatter's for CPU and CUDA: they differ in a macro alone."""
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler")
    (tmp_path / "bin").mkdir()
    source = tmp_path / "toy_package-1.0"
    (source / "csrc").mkdir(parents=True)
    (source / "setup.py").write_text(TOY_SETUP)
    (source / "csrc" / "answer.h").write_text('#define ANSWER "!"\n')
    for name in ("one", "two"):
        (source / "csrc" / f"{name}.cpp").write_text(TOY.replace("NAME", name))
    return source


def compile_toy(toy, headers='{"all.h": ("vector",)}', **env):
    """compile.py on the toy, with small headers instead of torch's."""
    sdists = toy.parent / "sdists"
    sdists.mkdir(exist_ok=True)
    with tarfile.open(sdists / "toy_package-1.0.tar.gz", "w:gz") as archive:
        archive.add(toy, toy.name)
    program = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'codes' / 'setup')!r}); import compile; compile.HEADERS = {headers}; compile.main()"
    places = [toy.parent / name for name in ("sdists", "build", "wheels", "compile.log")]
    done = subprocess.run(
        [sys.executable, "-c", program, *places], capture_output=True, text=True, timeout=120, check=False, cwd=toy.parent, env=os.environ | env
    )
    return done.returncode, done.stdout + done.stderr


def test_the_compiled_files_make_a_wheel_and_an_error_names_its_line(toy):
    """First two.cpp is wrong: one.cpp stays compiled, and only two.cpp is compiled once it is right."""
    two = toy / "csrc" / "two.cpp"
    right = two.read_text()
    two.write_text(right + "no C++\n")
    code, said = compile_toy(toy)
    last, log = said.splitlines()[-1], (toy.parent / "compile.log").read_text().splitlines()
    number = int(re.search(r"\(line (\d+) of .*compile.log\)$", last)[1])
    assert code == 3 and "toy_package-1.0 cannot be compiled, csrc/two.cpp: csrc/two.cpp:5:1: error: " in last
    assert log[number - 1].startswith("csrc/two.cpp:5:1: error:") and not list((toy.parent / "wheels").glob("*.whl"))
    one = next((toy.parent / "build").rglob("*_one_cpu/**/one.o"))
    compiled = one.stat().st_mtime_ns
    (toy.parent / "build" / toy.name / "csrc" / "two.cpp").write_text(right)
    code, said = compile_toy(toy)
    assert code == 0 and "4 of 4 files compiled" in said and one.stat().st_mtime_ns == compiled
    wheel = next((toy.parent / "wheels").glob("toy_package-1.0-*.whl"))
    shutil.unpack_archive(wheel, toy.parent / "wheel", "zip")
    halves = {file.name.split(".")[0]: re.search(rb"half=(\w+)!", file.read_bytes())[1] for file in (toy.parent / "wheel").rglob("*.so")}
    assert halves == {"_one_cpu": b"cpu", "_one_cuda": b"cuda", "_two_cpu": b"cpu", "_two_cuda": b"cuda"}


def test_cxx_chooses_the_compiler_and_an_undefined_name_is_found_among_a_linkers_words(toy):
    """As an error's remedy says. The compiler here links with what is not there."""
    put(
        toy.parent,
        "other-g++",
        f'case "$*" in *" -c "*) echo other >>"{toy.parent}/calls";; *) echo "two.o: undefined reference to \'x\'"; '
        f'echo "collect2: error: ld returned 1 exit status"; exit 1;; esac; exec {shutil.which("c++")} "$@"',
    )
    code, said = compile_toy(toy, CXX=str(toy.parent / "bin" / "other-g++"))
    assert code == 3 and (toy.parent / "calls").read_text().count("other") >= 4
    assert "cannot be linked: two.o: undefined reference to 'x' (line " in said


def test_a_file_that_the_small_headers_do_not_serve_is_compiled_as_its_package_wants_it(toy):
    """The small header "answer.h" comes before the package's own and lacks ANSWER."""
    (toy / "csrc" / "answer.h").rename(toy / "answer.h")
    (toy / "setup.py").write_text(TOY_SETUP.replace("define_macros", 'include_dirs=["."], define_macros'))
    code, said = compile_toy(toy, headers='{"answer.h": ("vector",), "all.h": ()}')
    assert code == 0 and "4 of 4 files compiled" in said, said
    assert "ANSWER" in (toy.parent / "compile.log").read_text()  # the first attempt


def test_run_sh_without_the_packages_names_setup(clone):
    for name in ("codes/environment.sh", "codes/preprocessing/run.sh", "codes/representation/run.sh"):
        (clone / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, clone / name)
    put(clone, "python3", "echo \"No module named 'medrep'\" >&2; exit 1")
    for part in ("preprocessing", "representation"):
        done = subprocess.run(
            [shutil.which("bash"), clone / "codes" / part / "run.sh"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": str(clone / "bin")},
        )
        must_refuse((done.returncode, done.stdout + done.stderr), "bash codes/setup.sh")
