"""codes/setup.sh says what is missing before it installs anything, and takes no time when nothing changed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
TOOLS = ("bash", "cat", "cksum", "dirname", "grep", "rm")


@pytest.fixture
def clone(tmp_path):
    """A folder with what setup.sh reads, and a PATH with the tools it uses; Python and a compiler are not among them."""
    (tmp_path / "codes").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("codes/setup.sh", "requirements.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def put(clone, name, script):
    file = clone / "bin" / name
    file.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    file.chmod(0o755)


def setup(clone, **env):
    done = subprocess.run(
        [shutil.which("bash"), clone / "codes" / "setup.sh"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": str(clone / "bin"), **env},
    )
    return done.returncode, done.stdout + done.stderr


def must_refuse(found, words):
    code, text = found
    assert code != 0 and len(text.splitlines()) == 1 and words in text, (code, text)


def test_without_python(clone):
    must_refuse(setup(clone), "install Python 3.11 or newer")
    must_refuse(setup(clone, PYTHON="python3.99"), "install Python 3.11 or newer")


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


def test_an_installation_that_failed_is_not_taken_for_one(clone):
    put(clone, "python3", f'case "$2" in venv) mkdir -p .venv/bin;; *) exec {sys.executable} "$@";; esac')
    put(clone, "c++", "exit 0")
    code, _ = setup(clone)
    assert code != 0 and not (clone / ".venv" / ".installed").exists()


def test_nothing_is_done_when_nothing_changed(clone):
    content = b"".join((clone / name).read_bytes() for name in ("requirements.txt", "pyproject.toml", "codes/setup.sh"))
    stamp = clone / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.write_text(subprocess.run(["cksum"], input=content, capture_output=True, check=True).stdout.decode())
    assert setup(clone) == (0, "")  # without Python or compiler
    (clone / "requirements.txt").write_text("torch==0\n")
    must_refuse(setup(clone), "install Python")


def test_spark_is_installed_once_java_is_there(clone):
    put(clone, "python3", f'exec {sys.executable} "$@"')
    put(clone, "c++", "exit 0")
    python, log = clone / ".venv" / "bin" / "python", clone / "pip.log"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!{shutil.which("bash")}\necho "$@" >>{log}\n')
    python.chmod(0o755)
    code, said = setup(clone)
    assert code == 0 and "Spark" not in said and "[spark]" not in log.read_text()
    put(clone, "java", "exit 0")
    code, said = setup(clone)
    assert code == 0 and "with Spark, as Java is here" in said and log.read_text().splitlines()[-1].endswith("-e .[spark]")
    assert setup(clone) == (0, "")


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
