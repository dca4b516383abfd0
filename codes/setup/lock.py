"""Write the lock: every package that set-up installs, its version and the hashes of its files.

    pip install uv
    python codes/setup/lock.py                      after a version in requirements.txt or pyproject.toml changed
    python codes/setup/lock.py --upgrade            newer versions of whatever these do not name

Reads requirements.txt and pyproject.toml's extra `spark`, and asks PyPI. Writes codes/setup/locks, one file for each step of
codes/setup/install.py:

    torch.txt       torch
    base.txt        what torch needs to be imported
    cuda.txt        what only a CUDA build of torch asks for, 3 GB: not installed beside a CPU build
    packages.txt    all the rest
    graph.txt       torch-scatter and torch-sparse, as source: they are compiled against the torch that is there
    spark.txt       pyspark, where Java is

A lock holds for Python 3.11 and newer on every platform: each package carries the hashes of all its files on PyPI. torch also
carries those of pytorch.org's CPU builds, which many have instead of PyPI's.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LOCKS = Path(__file__).parent / "locks"
COMPILED = {"torch-scatter": [], "torch-sparse": ["scipy"]}  # their setup.py imports torch, so uv cannot ask it what they need
CPU_BUILDS = "https://download.pytorch.org/whl/cpu/torch/"
PYTHONS = ("cp311", "cp312", "cp313", "cp314")
HEADS = {
    "torch": "pytorch.org's CPU builds are:",
    "base": "What torch needs to be imported, and setuptools, which compiles.",
    "cuda": "What only a CUDA build of torch asks for.",
    "packages": "All that the other files do not name.",
    "graph": "Compiled against the torch that is there.",
    "spark": "Where Java is.",
}


def wanted():
    """The requirement lines: requirements.txt without the repository itself, and Spark's."""
    lines = (line.split("#")[0].strip() for line in (REPOSITORY / "requirements.txt").read_text().splitlines())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [line for line in lines if line and not line.startswith("-")] + project["optional-dependencies"]["spark"]


def resolve(lines, earlier, *arguments):
    """uv's answer. What `earlier`, uv's answer of the last time, says of a package that `lines` leave open holds on."""
    with tempfile.TemporaryDirectory() as folder:
        asked, config, answer = (Path(folder) / name for name in ("requirements.in", "uv.toml", "requirements.txt"))
        asked.write_text("\n".join(lines))
        answer.write_text(earlier)
        versions = dict(line.split("==") for line in lines if line.split("==")[0] in COMPILED)
        config.write_text(
            "".join(
                f'[[dependency-metadata]]\nname = "{name}"\nversion = "{versions[name]}"\nrequires-dist = {needs}\n'
                for name, needs in COMPILED.items()
            )
        )
        subprocess.run(
            [
                "uv",
                "pip",
                "compile",
                "--quiet",
                "--universal",
                "--python-version",
                "3.11",
                "--generate-hashes",
                "--no-header",
                "--default-index",
                "https://pypi.org/simple",
                "--config-file",
                config,
                "--output-file",
                answer,
                asked,
                *arguments,
            ],
            check=True,
        )
        return answer.read_text()


def entries(answer):
    """name -> (its requirement with the hashes, the names that ask for it)."""
    found = {}
    for block in re.split(r"\n(?=\S)", answer.strip()):
        name = re.split(r"[^\w.-]", block)[0]
        via = re.findall(r"^ +#(?: via)? +([\w.-]+)$", block, re.M)
        found.setdefault(name, []).append(("\n".join(line for line in block.splitlines() if not line.lstrip().startswith("#")), via))
    return {name: ("\n".join(text for text, _ in parts), {one for _, via in parts for one in via}) for name, parts in found.items()}


def cpu_builds(version, earlier):
    """pytorch.org's CPU builds of torch, as "cp311 x86_64 <hash>"; where that site cannot be reached, those of the last lock."""
    name = re.compile(rf"torch-{re.escape(version)}(?:%2B|\+)cpu-({'|'.join(PYTHONS)})-\1-manylinux\w+_(x86_64|aarch64)\.whl#(sha256[=:]\w{{64}})")
    try:
        page = urllib.request.urlopen(CPU_BUILDS, timeout=30).read().decode()
        return sorted({f"{python} {machine} {digest.replace('=', ':')}" for python, machine, digest in name.findall(page)})
    except OSError as error:
        found = re.findall(r"^#   (cp\d+ \w+ sha256:\w{64})$", earlier, re.M) if f"torch=={version} " in earlier else []
        print(f"lock: {CPU_BUILDS} cannot be read ({error}): {len(found)} hashes of CPU builds are taken from the last lock", file=sys.stderr)
        return found


def parts_of(found):
    """The lock's file of each package."""

    def asked_for_by(names):
        more = {name for name, (_, via) in found.items() if via & names and not name.startswith(("nvidia-", "cuda-", "triton"))}
        return names if more <= names else asked_for_by(names | more)

    part = {name: "cuda" if name.startswith(("nvidia-", "cuda-", "triton")) else "packages" for name in found}
    part |= dict.fromkeys(asked_for_by({"torch"}), "base") | dict.fromkeys(COMPILED, "graph") | {"torch": "torch"}
    return part | {name: "spark" for name, (_, via) in found.items() if name == "pyspark" or via == {"pyspark"}}


def main():
    if not shutil.which("uv"):
        sys.exit("lock: uv is missing: pip install uv, in an environment of its own")
    lines = wanted()
    earlier = {part: file.read_text() if (file := LOCKS / f"{part}.txt").exists() else "" for part in HEADS}
    known = "\n".join(re.sub(r"^#.*\n", "", text, flags=re.M) for part, text in earlier.items() if part != "torch")
    found = entries(resolve(lines, known, *sys.argv[1:]))
    part = parts_of(found)
    LOCKS.mkdir(exist_ok=True)
    for name, head in HEADS.items():
        texts = [found[package][0] for package in sorted(found) if part[package] == name]
        text = "\n".join(texts)
        if name == "torch":
            version = next(line.split("==")[1] for line in lines if line.startswith("torch=="))
            builds = cpu_builds(version, earlier["torch"])
            head += "".join(f"\n#   {build}" for build in builds)
            first = f"torch=={version} \\\n"
            text = text.replace(first, first + "".join(f"    --hash={build.split()[-1]} \\\n" for build in builds))
        (LOCKS / f"{name}.txt").write_text(f"# Written by codes/setup/lock.py, which says how. {head}\n{text}\n")
        print(f"lock: {name}.txt has {len(texts)} packages")


if __name__ == "__main__":
    main()
