"""What is checked before a commit and on GitHub is what .ci/run checks; and what no linter sees: stages' imports, docstrings' names."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent
STAGES = [path for folder in ("preprocessing", "representation", "experiments") for path in sorted((REPOSITORY / "codes" / folder).glob("*.py"))]
FILES = sorted((REPOSITORY / "codes").rglob("*.py"))
NO_CONSTANTS = set(
    # the field
    "AUPRC AUROC BEHRT BERT BMC CHIL CLS CMS EHR EHRSHOT FLOP GCN GRACE I01 I10 ICML INR KEEP LACE LLOS MIMIC OOPSLA PCA PNA RANK ROC SNE UMNSRS UNK UTI "
    # OMOP and MEDS: tables, columns, codes
    "ACE ACES ATC ATLAS CDM COHORT CONCEPT CONCEPT_ANCESTOR CONCEPT_CODE CONCEPT_ID CONCEPT_RELATIONSHIP CONCEPT_SYNONYM DOMAIN ETL GENDER ICD "
    "ICD9CM LOINC MEDS EHRSHOT_ASSETS MEDS_BIRTH MEDS_DEATH OHDSI OMOP RACE RELATIONSHIP SNOMED VOCABULARY VOCABULARY_ID "
    "CONDITION_OCCURRENCE DEATH DRUG_EXPOSURE MEASUREMENT PERSON PROCEDURE_OCCURRENCE VISIT_DETAIL VISIT_OCCURRENCE "
    "SOURCE_TO_CONCEPT_MAP E11 ICD10CM NDC "
    # codes of MEDS datasets
    "ASPIRIN DIAGNOSIS EMER ENTERED HEARTRATE HOME HOSPITAL_ADMISSION HOSPITAL_DISCHARGE LAB MEDICATION PERIODIC STARTED TREATMENT VITALS "
    # MEDS-DEV: its name, folders in commands, variables
    "DEV DATASET FINETUNED LABELS MEDREP_CONCEPTS MEDREP_HOSPITAL PREDICTIONS PRETRAINED "
    # eICU: what its columns are of, and names in them
    "APACHE ASA AVR CHF CONT EACH EXCEL FLEX HCL HICL J96 KCL METOPROLOL ONDANSETRON PT72 SOLN TARTRATE TB24 USP VIAL "
    # databases
    "ADBC NAME_CDM_URL SEOUL_CDM_URL SQL TRUNCATE URL "
    # the machine, and what libraries are told by
    "README BLAS CPU CSS CSV CUDA CUDA_VISIBLE_DEVICES DROP EHRSHOT_MEDS GPU HTTP INSTALLER JSON MAX_JOBS MEDREP_CONFIGS MEDREP_FRESH MEDREP_ROOT MEDREP_SPILL "
    "ENCODER GRAPH OPENAI_API_KEY OPENAI_BASE_URL OPENAI_ORG_ID PNG PR_SET_PDEATHSIG SHA SHA256SUMS SIGBUS SIGTERM SPARK_CONF_DIR SPARK_HOME SPARK_MASTER "
    "HF_ENDPOINT HF_TOKEN LICENSE MLFLOW_TRACKING_URI SVG UTC UTF WANDB_MODE YAML SLURM "
    # what a command or a path has in their place, and words that are stressed
    "ALL BUILD COLUMN FILE FOLDER HOSPITAL LOG NAME SDISTS VALUE WHEELS".split()
)
"""Words in capitals that docstrings and comments may have beside the constants of their file."""


def test_hooks_run_the_checks_of_run_sh_and_a_push_runs_all():
    (local,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local" and all(hook["language"] == "system" for hook in local["hooks"])  # nothing is downloaded
    entries = [hook["entry"].removeprefix("env ") for hook in local["hooks"]]
    checks = re.findall(r"^(?:PYTHONPATH=codes )?\.venv/bin/.*$", (REPOSITORY / "tests" / "run.sh").read_text(), flags=re.M)
    tools = [check.partition(" >")[0] for check in checks if "pytest" not in check]
    assert len(tools) == 4 and entries == [*tools, "bash .ci/run"]
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


@pytest.mark.parametrize("package", sorted((REPOSITORY / "codes" / "medrep").glob("*/**/__init__.py")), ids=lambda path: path.parent.name)
def test_a_package_says_in_ten_lines_which_file_to_read_first(package):
    text = ast.get_docstring(ast.parse(package.read_text())) or ""
    first = re.search(r"read (\w+\.py)( and \w+\.py)? first", text, flags=re.I)
    assert len(text.splitlines()) <= 10 and first and (package.parent / first[1]).exists()


def stale_constants(text: str, everywhere: set[str]) -> set[str]:
    """Words in capitals in the docstrings and comments of a file that neither it has as a name nor, where they say of which, another file."""
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    prose = [re.sub(r"noqa:.*", "", token.string) for token in tokens if token.type == tokenize.COMMENT]
    strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    found = set()
    for part in [*prose, *(node.value for node in strings if isinstance(node.value, str))]:
        for owner, word in re.findall(r"(\w\.|\.py's )?(?<!\w)([A-Z][A-Z0-9_]+[A-Z0-9])(?!\w)", part):
            if word not in (everywhere if owner else names) | NO_CONSTANTS:
                found.add(word)
    return found


@pytest.fixture(scope="module")
def all_names() -> set[str]:
    return {
        token.string for path in FILES for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline) if token.type == tokenize.NAME
    }


def test_docstrings_and_comments_name_constants_that_exist(all_names):
    stale = {str(path.relative_to(REPOSITORY)): names for path in FILES if (names := stale_constants(path.read_text(), all_names))}
    assert not stale  # a constant's old name; or an acronym, which NO_CONSTANTS takes


@pytest.mark.parametrize("old", ["WORDS", "TOP", "EVENTS", "COLUMNS", "HOW", "CODES", "PAPER_MEANS_OF", "OWN", "ratings.WORDS", "ancestors.py's HOW"])
def test_a_constant_that_was_renamed_is_found(old, all_names):
    for text in (f'def f():\n    """A row of {old}."""\n', f"A = 1  # as {old}\n"):
        assert stale_constants(text, all_names)


def imports_of_modules():
    """{module of medrep: the modules of medrep that it imports when it is imported}"""
    paths = {path.relative_to(REPOSITORY / "codes").with_suffix(""): path for path in FILES}
    names = {".".join(path.parts[:-1] if path.name == "__init__" else path.parts): file for path, file in paths.items() if path.parts[0] == "medrep"}
    found = {}
    for name, file in names.items():
        told = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom) and node.module]
        wanted = {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in names else node.module for node in told for alias in node.names}
        found[name] = sorted(wanted & names.keys() - {name})
    return found


def test_no_modules_import_one_another_in_a_circle():
    """A stage that begins at another place of the circle could not be started, while all_stages.py can."""
    imports = imports_of_modules()
    assert len(imports) > 100 and imports["medrep.patients.behrt"]
    left = dict(imports)
    while free := [name for name, wanted in left.items() if not set(wanted) & left.keys()]:
        for name in free:
            del left[name]
    assert not left
