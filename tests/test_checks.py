"""What is checked before a commit and on GitHub is what .ci/run checks; and what no linter sees: stages' imports, packages' first lines."""

import ast
import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent
STAGES = [path for folder in ("preprocessing", "representation", "experiments") for path in sorted((REPOSITORY / "codes" / folder).glob("*.py"))]


def test_hooks_run_the_checks_of_run_sh_and_a_push_runs_all():
    (local,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local" and all(hook["language"] == "system" for hook in local["hooks"])  # nothing is downloaded
    entries = [hook["entry"].removeprefix("env ") for hook in local["hooks"]]
    checks = re.findall(r"^(?:PYTHONPATH=codes )?\.venv/bin/.*$", (REPOSITORY / "tests" / "run.sh").read_text(), flags=re.M)
    assert len(checks) == 4 and entries == [*checks, "bash .ci/run"]
    assert (REPOSITORY / ".ci" / "run").read_text().endswith("exec bash tests/run.sh\n")


def test_github_runs_ci_run():
    job = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "tests.yml").read_text())["jobs"]["tests"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]


@pytest.mark.parametrize("stage", STAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_stage_imports_no_file_beside_it(stage):
    """A script's own folder is first on its path: `import labels` would be found, and is no name that import-linter knows."""
    nodes = list(ast.walk(ast.parse(stage.read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    assert not any(node.level for node in nodes if isinstance(node, ast.ImportFrom))
    assert not {name.partition(".")[0] for name in imported} & {path.stem for path in stage.parent.glob("*.py")}


@pytest.mark.parametrize("package", sorted((REPOSITORY / "codes" / "medrep").glob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_a_package_says_in_ten_lines_which_file_to_read_first(package):
    text = ast.get_docstring(ast.parse(package.read_text())) or ""
    first = re.search(r"read (\w+\.py)( and \w+\.py)? first", text, flags=re.I)
    assert len(text.splitlines()) <= 10 and first and (package.parent / first[1]).exists()
