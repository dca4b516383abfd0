"""Everything the stages hand to one another: where it lies, what one row is, who writes it.

The only module that spells a path under usedata/ or results/. Tables are folders of parquet, arrays
.npy, vocabularies JSON. A write goes to an unfinished name and is renamed, so that a reader sees all
of it or nothing; a stamp beside it says what it was made from, so that a second run can reuse it.
"""
import errno
import hashlib
import itertools
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path

import ibis
import numpy as np
from ibis import Schema

from medrep import VERSION, parquet
from medrep.errors import UserError
from medrep.progress import say

REPOSITORY = Path(__file__).resolve().parents[2]
# Tests and the demo point this at a folder of their own and run the real stages there.
# A relative MEDREP_ROOT is taken from the repository's root, whatever folder the command is run in.
ROOT = REPOSITORY / os.environ.get("MEDREP_ROOT", "")

DOMAINS = ("condition", "drug", "measurement", "procedure")  # the event tables we read; code = position + 1
SPLITS = ("train", "valid", "test")  # code = position


def show(path: Path) -> str:
    """A path as people want to read it: below ROOT, if it is there."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


# ---- writing ---------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"cannot write {folder} ({problem.strerror}): give it write permission, "
                        "or point MEDREP_ROOT at a folder that has it") from None
    return folder


def discard(path: Path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """The name that `path` has while it is written."""
    return path.with_name(path.name + ".unfinished")


def progress_of(part: Path) -> Path:
    """Where whoever writes `part` with `continued` may note what of it is done; it goes with `part`."""
    return part.with_name(f".{part.name}.progress")


def put_in_place(part: Path, path: Path):
    if part.is_dir() and path.exists():
        discard(path)  # rename replaces a file, but not a folder that has something in it
    part.rename(path)


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """What a disk refuses is said in one sentence."""
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"cannot write {path}: give it write permission, or point MEDREP_ROOT elsewhere") from None
        if problem.errno == errno.ENOSPC:
            raise UserError(f"no space left for {path}: free some, or point MEDREP_ROOT at another disk") from None
        raise


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A name to write to; it becomes `path` (a file or a folder) when the block ends well, and is removed when it fails.

    A killed process leaves NAME.unfinished behind, which no one reads and the next write removes.
    """
    make_folder(path.parent)
    part = part_of(path)
    try:
        with in_words(path):
            discard(part)
            yield part
            put_in_place(part, path)
    finally:
        if part.exists():
            discard(part)


@contextmanager
def continued(path: Path, made_from: dict) -> Iterator[Path]:
    """`unfinished` for what takes hours: however the block ends early, NAME.unfinished stays, and the next run goes on with it.

    Its stamp says what it is made from; a left-over of anything else is discarded, which is said. MEDREP_FRESH=1 discards any.
    """
    make_folder(path.parent)
    part, made_from = part_of(path), json.loads(json.dumps(made_from, default=str))
    stamp = stamp_of(part)
    with in_words(path):
        if part.exists():
            if os.environ.get("MEDREP_FRESH") == "1":
                discard(part)
            elif not stamp.exists() or json.loads(stamp.read_text()) != made_from:
                say(f"{show(part)} was left of other inputs or settings: it is discarded")
                discard(part)
            else:
                say(f"{show(part)} was left unfinished: it is continued")
        if not part.exists():
            discard(progress_of(part))
        write_json(stamp, made_from)
        try:
            yield part
            put_in_place(part, path)
        finally:
            if not part.exists():  # done, or nothing of it was worth keeping
                discard(progress_of(part))
                discard(stamp)


def write_json(path: Path, content):
    with unfinished(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False))


# ---- stamps ----------------------------------------------------------------------------------------------


class Made:
    """Whether `output` is there and was made from these inputs with these settings by this version.

        made = Made(output, inputs=[...], settings=cohort)
        if made.is_current():
            return
        ...            # write output
        made.record()

    An input that is itself stamped counts by what it was made from; a file of the user's by its size and time, and so does
    an output that somebody put in the place of ours. MEDREP_FRESH=1 makes everything anew.
    """

    def __init__(self, output: Path, inputs: list[Path] = (), settings=None):
        self.output = Path(output)
        self.stamp = stamp_of(self.output)
        settings = asdict(settings) if is_dataclass(settings) else settings
        self.content = {"version": VERSION, "settings": json.loads(json.dumps(settings, default=str)),
                        "inputs": {show(path): fingerprint(path) for path in inputs}}

    def is_current(self) -> bool:
        if os.environ.get("MEDREP_FRESH") == "1" or not self.output.exists() or not self.stamp.exists():
            return False
        if read_stamp(self.output) != self.content:
            return False
        say(f"{show(self.output)} is up to date")
        return True

    def record(self):
        write_json(self.stamp, self.content | {"output": on_disk(self.output)})


def stamp_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.made.json")


def read_stamp(path: Path) -> dict | None:
    """What the stamp of `path` says, if it is still what the stamp was written for: a run may have been killed between the two."""
    if not stamp_of(path).exists() or not path.exists():
        return None
    content = json.loads(stamp_of(path).read_text())
    return content if content.pop("output", None) == on_disk(path) else None


def fingerprint(path: Path) -> str | None:
    """What changes when `path` changes; None for a path that is not there."""
    path = Path(path)
    if (content := read_stamp(path)) is not None:
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return on_disk(path) if path.exists() else None


def on_disk(path: Path) -> str:
    """Size and time of a file, of all files in a folder, in one word."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    facts = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- tables ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A folder of parquet files that one stage writes and later stages read."""

    path: str
    """Under usedata/; {hospital} and {outcome} are filled in by the caller."""
    row: str
    """What one row is, in words."""
    written_by: str
    """The stage, so that whoever misses the table knows what to run."""
    schema: Schema

    def at(self, **names) -> Path:
        return ROOT / "usedata" / self.path.format(**names)

    def require(self, **names) -> Path:
        folder = self.at(**names)
        if not folder.exists():
            raise UserError(f"{show(folder)} is missing; {self.written_by} writes it")
        return folder

    def read(self, engine: ibis.BaseBackend, **names) -> ibis.Table:
        table = engine.read_parquet(f"{self.require(**names)}/*.parquet")
        if missing := [name for name in self.schema.names if name not in table.columns]:
            raise UserError(f"{show(self.at(**names))} lacks {', '.join(missing)}: an earlier version wrote it; {self.written_by} writes it anew")
        return table.select(*self.schema.names)

    def write(self, engine: ibis.BaseBackend, table: ibis.Table, **names) -> int:
        """Write `table`, cast to the schema, and say how many rows it has."""
        with self.writing(engine, **names) as add:
            add(table)
        return self.say_rows(engine, **names)

    @contextmanager
    def writing(self, engine: ibis.BaseBackend, **names) -> Iterator[Callable[[ibis.Table], None]]:
        """For a table that is made part by part: a function that adds rows. Readers see them when the block ends."""
        with unfinished(self.at(**names)) as part:
            numbers = itertools.count()

            def add(table: ibis.Table):
                if missing := set(self.schema.names) - set(table.columns):
                    raise ValueError(f"{self.path} lacks {sorted(missing)}")
                parquet.write(engine, table.select(*self.schema.names).cast(self.schema), part, f"{next(numbers):05d}")

            yield add

    def say_rows(self, engine: ibis.BaseBackend, **names) -> int:
        """How many rows there are; says it."""
        rows = int(self.read(engine, **names).count().execute())
        say(f"{show(self.at(**names))}: {rows:,} rows, each {self.row}")
        return rows


PERSONS = Table(
    "{hospital}/persons", "a person", "preprocessing/persons.py",
    ibis.schema({"person_id": "int64", "sex": "string", "race": "string", "year_of_birth": "int64",
                 "death_time": "timestamp", "split": "string"}),
)
"""sex is M, F or U; race is its name, null where it is not known; death_time is 23:59:59 of the day where only the day is known;
split is one of SPLITS."""

VISITS = Table(
    "{hospital}/visits", "a visit", "preprocessing/visits.py",
    ibis.schema({"visit_id": "int64", "person_id": "int64", "start": "timestamp", "end": "timestamp",
                 "concept_id": "int64", "is_admission": "boolean"}),
)
"""A bare start date is 00:00:00 of that day, a bare end date 23:59:59."""

RECORDS = Table(
    "{hospital}/records", "an OMOP event we kept", "preprocessing/records.py",
    ibis.schema({"person_id": "int64", "time": "timestamp", "domain": "string", "concept_id": "int64",
                 "value": "float64", "unit": "string", "visit_id": "int64", "type_id": "int64"}),
)
"""time is when the event can be known; visit_id is null for an event outside any visit: its visit is its day."""

REJECTS = Table(
    "{hospital}/rejects/{source}", "a row that can't be read", "the stage that reads the table",
    ibis.schema({"table": "string", "line": "int64", "reason": "string", "raw": "string"}),
)
"""line is the row's in the file, 1 being the header (in parquet, as if it had one); raw is the row as text."""

DECILES = Table(
    "{hospital}/deciles", "one measurement concept in one unit", "preprocessing/deciles.py",
    ibis.schema({"concept_id": "int64", "unit": "string", "n": "int64", **{f"edge_{i}": "float64" for i in range(11)}}),
)

def labels_table(columns: Sequence[str]) -> Table:
    return Table("{hospital}/labels/{outcome}", "a prediction point (MEDS label schema)", "preprocessing/labels.py",
                 ibis.schema({"subject_id": "int64", "prediction_time": "timestamp", **dict.fromkeys(columns, "boolean")}))


LABELS = labels_table(["boolean_value"])
"""Phenotypes have a column each in place of boolean_value, null where the person is left out of that one."""


def counts_file(hospital: str, table: str) -> Path:
    """What became of the rows of one of the hospital's tables, as JSON: read, kept, left out and rejected by reason."""
    return ROOT / "usedata" / hospital / "counts" / f"{table}.json"


def ages_file(hospital: str) -> Path:
    """The median age at persons' first events, left out ones among them, as JSON."""
    return ROOT / "usedata" / hospital / "ages.json"


def meds_folder(hospital: str) -> Path:
    return ROOT / "usedata" / hospital / "meds"


def site_file(hospital: str) -> Path:
    return ROOT / "usedata" / hospital / "site.json"


def audit_file(hospital: str) -> Path:
    return ROOT / "usedata" / hospital / "audit.json"


def flow_file(hospital: str, outcome: str) -> Path:
    """What became of every visit on the way to the labels, as JSON."""
    return LABELS.at(hospital=hospital, outcome=outcome).with_name(f"{outcome}.flow.json")


DEFINITIONS = Table(
    "representation/definitions", "a concept's definition", "representation/definitions.py",
    ibis.schema({"concept_id": "string", "text": "string", "writer": "string", "model": "string", "key": "string"}),
)

# ---- arrays and files under usedata/ -----------------------------------------------------------------------


def trajectories_folder(hospital: str) -> Path:
    """Flat arrays of events and of persons; medrep.patients.sequences says which and opens them."""
    return ROOT / "usedata" / hospital / "trajectories"


def vocabulary_file(hospital: str) -> Path:
    return ROOT / "usedata" / hospital / "vocabulary.json"


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
    """What a language model answered: medrep.llm.chat appends to it and reads it. It is paid for: no stage removes it."""
    return representation_folder() / "answers.jsonl"


def batch_folder() -> Path:
    """OpenAI Batch input files, for the user to upload."""
    return representation_folder() / "batch"


def failed_definitions_file() -> Path:
    """concept_id, name and reason of the concepts that the language model gave no usable definition of."""
    return representation_folder() / "definitions_failed.csv"


def edges_file() -> Path:
    return representation_folder() / "edges.npy"


def medtok_files() -> dict[str, Path]:
    """What medtok.py writes beside the vectors: the tokens, weights and codebook that they are composed of, and the epochs' log."""
    names = {"tokens": "npy", "weights": "npy", "codebook": "npy", "log": "jsonl"}
    return {name: representation_folder() / f"medtok_{name}.{kind}" for name, kind in names.items()}


def encoder_folder() -> Path:
    return representation_folder() / "encoder"


def write_array(path: Path, array: np.ndarray):
    with unfinished(path) as part, open(part, "wb") as file:
        np.save(file, array, allow_pickle=False)


def new_array(part: Path, shape: tuple[int, ...], dtype=np.float32) -> np.memmap:
    """An .npy of zeros to write into, memory-mapped."""
    array = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
    with open(part, "r+b") as file:
        reserve(file, part.stat().st_size)
    return array


def at_random(array: np.ndarray) -> np.ndarray:
    """`array`; if it is memory-mapped, the disk reads what is asked for, and not what lies around it (8 MB, as some systems are set)."""
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_RANDOM)
    return array


def reserve(file, size: int):
    """Take `size` bytes of the disk for an open file: where a map is written to and none is left, the process dies of SIGBUS."""
    if size:
        os.posix_fallocate(file.fileno(), 0, size)


# ---- data/ and results/ ------------------------------------------------------------------------------------


def data_folder(name: str) -> Path:
    """What the user downloaded: a hospital's OMOP tables, or `concepts`."""
    return ROOT / "data" / name


def hospitals_with_data() -> list[str]:
    folder = ROOT / "data"
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "concepts") if folder.is_dir() else []


def hospitals_used() -> list[str]:
    """The hospitals that preprocessing has made trajectories of."""
    return sorted(path.parent.name for path in (ROOT / "usedata").glob("*/trajectories"))


def pretraining_folder(hospital: str, model: str, rep: str, head: str = "linear") -> Path:
    return ROOT / "results" / hospital / "pretraining" / run_name(model, rep, head)


def finetuning_folder(hospital: str, model: str, rep: str, outcome: str, seed: int, head: str = "linear", variant: str = "") -> Path:
    name = run_name(model, rep, head) + (f"_{variant}" if variant else "")
    return ROOT / "results" / hospital / "finetuning" / name / outcome / f"seed_{seed}"


def run_name(model: str, rep: str, head: str) -> str:
    return f"{model}_{rep_name(rep)}" + ("" if head == "linear" else f"_{head}")


def predictions_file(folder: Path, test: str, label: str = "") -> Path:
    """Of the run in `folder`; `test` is the hospital (results.name_of). Several labels have a file each."""
    if not label:
        return folder / f"predictions_{test}.parquet"
    return folder / f"predictions_{test}" / f"{file_name(label)}.parquet"


def file_name(text: str) -> str:
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
    """What experiments/medgemma.py writes of them: the ratings by feature, their summary, and what the language model answered."""
    names = {"ratings": f"rating_{hospital}.csv", "summary": f"rating_{hospital}.json", "answers": f"rating_{hospital}_answers.jsonl"}
    return {what: folder / name for what, name in names.items()}


def agreement_file(folder: Path, hospital: str) -> Path:
    """How far the seeds of the outcome in `folder` agree on what is important."""
    return folder / f"agreement_{hospital}.json"


def comparison_file() -> Path:
    """compare.py's tables, in long form."""
    return summary_file().with_name("comparison.csv")


def metrics_files() -> list[Path]:
    """Those of every run."""
    return sorted((ROOT / "results").glob("*/finetuning/*/*/seed_*/metrics_*.json"))


def summary_file() -> Path:
    return ROOT / "results" / "summary.csv"


def coverage_files(home: str, external: str) -> dict[str, Path]:
    """What experiments/vocabulary_coverage.py writes: shares by domain and vocabulary, their picture, AUROC by unknown share."""
    names = {"shares": f"coverage_{home}_{external}.csv", "picture": f"coverage_{home}_{external}.png",
             "auroc": f"coverage_auroc_{home}_{external}.csv"}
    return {what: ROOT / "results" / name for what, name in names.items()}


def quality_file() -> Path:
    return ROOT / "results" / "representation" / "quality.csv"


def map_file(method: str) -> Path:
    """A picture of all arms' concepts in two dimensions."""
    return quality_file().with_name(f"map_{method}.png")


def report_file() -> Path:
    return ROOT / "results" / "report" / "index.html"
