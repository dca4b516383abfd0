"""Where everything lies that the stages hand to one another, under data/, usedata/ and results/.

Tables are folders of parquet (tables.py says where below usedata/ and what a row is), arrays .npy, vocabularies JSON. What lies inside
such a folder is named where it is written and read. storage.py writes them, stamps.py tells whether they are up to date.
"""

import os
import re
from pathlib import Path

from medrep.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
# Tests and the demo point this at a folder of their own and run the real stages there.
# A relative MEDREP_ROOT is taken from the repository's root, whatever folder the command is run in.
ROOT = REPOSITORY / os.environ.get("MEDREP_ROOT", "")

DOMAINS = ("condition", "drug", "measurement", "procedure")  # the event tables we read; code = position + 1
SPLITS = ("train", "valid", "test")  # code = position


def display_path(path: Path) -> str:
    """A path as people want to read it: below ROOT, if it is there."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def checked_name(hospital: str) -> str:
    """`hospital`, if it can be the name of a folder of its own: no path, no pattern, not where the concepts' vectors are."""
    if not re.fullmatch(r"\w[\w. -]*", hospital) or hospital == "representation":
        raise UserError(f"{hospital!r} can't be a hospital's name: give that of a folder below data/, of letters, digits, dots, hyphens, underscores")
    return hospital


# ---- usedata/ ----------------------------------------------------------------------------------------------


def used_folder(hospital: str) -> Path:
    """All that preprocessing writes of a hospital."""
    return ROOT / "usedata" / checked_name(hospital)


def counts_file(hospital: str, table: str) -> Path:
    """What became of the rows of one of the hospital's tables, as JSON: read, kept, left out and rejected by reason."""
    return used_folder(hospital) / "counts" / f"{table}.json"


def unmapped_file(hospital: str) -> Path:
    """What has no concept and therefore is no event, as JSON: hospital_tables.count_unmapped_codes."""
    return used_folder(hospital) / "unmapped.json"


def unmapped_codes_file(hospital: str) -> Path:
    """The same as CSV: code, rows, why, and an empty concept_id, to be filled in and read as a MEDS dataset's code_mapping.csv."""
    return ROOT / "usedata" / hospital / "unmapped_codes.csv"


def ages_file(hospital: str) -> Path:
    """The median age at persons' first events, left out ones among them, as JSON."""
    return used_folder(hospital) / "ages.json"


def source_folder(hospital: str) -> Path:
    """OMOP tables that preprocessing/eicu.py makes of a hospital's own, or preprocessing/database.py brings, each a parquet file or a folder of
    such; of `concepts` the vocabulary's that came from a database."""
    return used_folder(hospital) / "source"


def apache_scores_file(hospital: str) -> Path:
    """What preprocessing/apache.py writes of an eICU hospital."""
    return used_folder(hospital) / "apache_scores.parquet"


def tables_folder(name: str) -> Path:
    """Where the OMOP tables of a hospital lie: in data/, or where they were made of other ones; `concepts` has the vocabulary's."""
    if name == "concepts":
        return concepts_folder()
    made = source_folder(name)
    return made if made.is_dir() else data_folder(name)


def concepts_folder() -> Path:
    """The vocabulary's tables: what the user downloaded, or else what came from a hospital's database."""
    given, made = data_folder("concepts"), source_folder("concepts")
    return made if made.is_dir() and not given.is_dir() else given


def meds_folder(hospital: str) -> Path:
    return used_folder(hospital) / "meds"


def site_file(hospital: str) -> Path:
    return used_folder(hospital) / "site.json"


def audit_file(hospital: str) -> Path:
    return used_folder(hospital) / "audit.json"


def flow_file(hospital: str, outcome: str) -> Path:
    """What became of every visit on the way to the labels, as JSON."""
    return used_folder(hospital) / "labels" / f"{outcome}.flow.json"


# ---- arrays and files under usedata/ -----------------------------------------------------------------------


def trajectories_folder(hospital: str) -> Path:
    """Flat arrays of events and of persons; medrep.patients.sequences says which and opens them."""
    return used_folder(hospital) / "trajectories"


def vocabulary_file(hospital: str) -> Path:
    return used_folder(hospital) / "vocabulary.json"


def representation_folder() -> Path:
    return ROOT / "usedata" / "representation"


def concept_index_file() -> Path:
    return representation_folder() / "concept_idx.csv"


def concept_array_file(rep: str) -> Path:
    """`rep` is the name of an arm, or the path of a .npy of the user's."""
    return Path(rep) if rep.endswith(".npy") else representation_folder() / f"concept_representation_{rep}.npy"


def rep_name(rep: str) -> str:
    """How results call it: a user's own file by its stem."""
    return Path(rep).stem if rep.endswith(".npy") else rep


def neighbour_index_file(rep: str) -> Path:
    return representation_folder() / f"neighbours_{rep_name(rep)}.faiss"


def answers_file() -> Path:
    """What a language model answered: medrep.llm.answer_file appends to it and reads it. It is paid for: no stage removes it."""
    return representation_folder() / "answers.jsonl"


def batch_folder() -> Path:
    """OpenAI Batch input files, for the user to upload."""
    return representation_folder() / "batch"


def failed_definitions_file() -> Path:
    """concept_id, name and reason of the concepts that the language model gave no usable definition of."""
    return representation_folder() / "definitions_failed.csv"


def edges_file() -> Path:
    return representation_folder() / "edges.npy"


def edge_kinds_file() -> Path:
    """int16 (edges,): of each edge twice the place of its relationship in edge_kind_names_file, and 1 more where it runs against it."""
    return representation_folder() / "edge_kinds.npy"


DECILE_KINDS = ("decile of", "next decile")
"""The last names in edge_kind_names_file: of edges that no row of CONCEPT_RELATIONSHIP makes."""


def edge_kind_names_file() -> Path:
    return representation_folder() / "edge_kinds.json"


def medtok_files() -> dict[str, Path]:
    """What medtok.py writes beside the vectors: the tokens, weights and codebook that they are composed of, and the epochs' log."""
    names = {"tokens": "npy", "weights": "npy", "codebook": "npy", "log": "jsonl"}
    return {name: representation_folder() / f"medtok_{name}.{kind}" for name, kind in names.items()}


def encoder_folder() -> Path:
    return representation_folder() / "encoder"


# ---- data/ and results/ ------------------------------------------------------------------------------------


def data_folder(name: str) -> Path:
    """What the user downloaded: a hospital's OMOP tables, or `concepts`."""
    return ROOT / "data" / checked_name(name)


SYNTHETIC_MARK = ".synthetic"
"""Lies in data/ and in each of its folders that demo/hospitals.py wrote."""


def is_synthetic(name: str) -> bool:
    """Whether a hospital, or `concepts`, is the demo's invention."""
    return (data_folder(name) / SYNTHETIC_MARK).exists()


def hospitals_with_data() -> list[str]:
    folder = ROOT / "data"
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "concepts") if folder.is_dir() else []


def hospitals_with_trajectories() -> list[str]:
    """The hospitals that preprocessing has made trajectories of."""
    return sorted(path.parent.name for path in (ROOT / "usedata").glob("*/trajectories"))


def hospitals_with_vocabulary() -> list[str]:
    """The hospitals whose tokens are known: also those that are a part of another one's tables, and so have no folder in data/."""
    return sorted(path.parent.name for path in (ROOT / "usedata").glob("*/vocabulary.json"))


def hospitals_with_counts() -> list[str]:
    """The hospitals that preprocessing has begun with."""
    return sorted(path.parent.name for path in (ROOT / "usedata").glob("*/counts") if path.is_dir())


def pretraining_folder(hospital: str, model: str, rep: str, head: str = "linear") -> Path:
    return ROOT / "results" / checked_name(hospital) / "pretraining" / run_name(model, rep, head)


def finetuning_folder(hospital: str, model: str, rep: str, outcome: str, seed: int, head: str = "linear", variant: str = "") -> Path:
    name = run_name(model, rep, head) + (f"_{variant}" if variant else "")
    return ROOT / "results" / checked_name(hospital) / "finetuning" / name / outcome / f"seed_{seed}"


def run_name(model: str, rep: str, head: str) -> str:
    return f"{model}_{rep_name(rep)}" + ("" if head == "linear" else f"_{head}")


def predictions_file(folder: Path, test: str, label: str = "") -> Path:
    """Of the run in `folder`; `test` is the hospital (results.evaluation_key). Several labels have a file each."""
    if not label:
        return folder / f"predictions_{test}.parquet"
    return folder / f"predictions_{test}" / f"{safe_file_name(label)}.parquet"


def safe_file_name(text: str) -> str:
    """`text` with nothing in it that a path must not have."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)


def metrics_file(folder: Path, test: str, recalibrated: int = 0) -> Path:
    """The rows of one test, as JSON; `recalibrated`: by so many local labels."""
    return folder / (f"metrics_{test}" + (f"_recalibrated_{recalibrated}" if recalibrated else "") + ".json")


def attention_file(folder: Path, hospital: str) -> Path:
    """Of the run in `folder`: attention and attribution by event."""
    return folder / f"attention_{hospital}.parquet"


def features_file(folder: Path, hospital: str) -> Path:
    """The most important tokens, by name."""
    return folder / f"features_{hospital}.csv"


def rating_files(folder: Path, hospital: str) -> dict[str, Path]:
    """What experiments/medgemma.py writes of the features: the ratings by feature, their summary, and what the language model answered."""
    names = {"ratings": f"rating_{hospital}.csv", "summary": f"rating_{hospital}.json", "answers": f"rating_{hospital}_answers.jsonl"}
    return {key: folder / name for key, name in names.items()}


def agreement_file(folder: Path, hospital: str) -> Path:
    """How far the seeds of the outcome in `folder` agree on what is important."""
    return folder / f"agreement_{hospital}.json"


def comparison_file() -> Path:
    """compare.py's tables, in long form."""
    return summary_file().with_name("comparison.csv")


def ehrshot_results_folder() -> Path:
    """Our rows in EHRSHOT's table."""
    return ROOT / "results" / "ehrshot_benchmark"


def run_config_files(pattern: str) -> list[Path]:
    """What runs were made with; `pattern` is of folders below results/HOSPITAL."""
    return sorted((ROOT / "results").glob(f"*/{pattern}/config.yaml"))


def metrics_files() -> list[Path]:
    """The metrics of every run."""
    return sorted((ROOT / "results").glob("*/finetuning/*/*/seed_*/metrics_*.json"))


def summary_file() -> Path:
    return ROOT / "results" / "summary.csv"


def coverage_files(home: str, external: str) -> dict[str, Path]:
    """What experiments/vocabulary_coverage.py writes: shares by domain and vocabulary, their picture, AUROC by unknown share."""
    names = {
        "shares": f"coverage_{home}_{external}.csv",
        "picture": f"coverage_{home}_{external}.png",
        "auroc": f"coverage_auroc_{home}_{external}.csv",
    }
    return {key: ROOT / "results" / name for key, name in names.items()}


def quality_file() -> Path:
    return ROOT / "results" / "representation" / "quality.csv"


def map_file(method: str) -> Path:
    """A picture of all arms' concepts in two dimensions."""
    return quality_file().with_name(f"map_{method}.png")


def explore_folder(hospital: str) -> Path:
    """What experiments/explore.py writes: index.html, and its tables as CSV."""
    return ROOT / "results" / "explore" / hospital


def report_file() -> Path:
    return ROOT / "results" / "report" / "index.html"
