"""Pairs of medical terms whose likeness people rated: a yardstick that no vocabulary's links can bend.

    files = rated_pairs.read_files(["UMNSRS_similarity.csv", "EHR-RelB.tsv"])
    rows = rated_pairs.find_concept_rows(con, ids, files[0])     # (pairs, 2), -1 where the index has not the concept
    table = rated_pairs.encoder_rows(files, settings)            # the text encoder itself: all terms, no vocabulary

A file is CSV or tab separated, its first line the header, in any case and order:

    rating              how alike the two are, on any scale; also called mean or mean_rating
    term1, term2        their names; also called term_1 and term_2, or snomed_label_1 and snomed_label_2
    snomed_id_1, _2     their SNOMED CT codes
    concept_id_1, _2    their OMOP concept ids

One of the last three is enough, and other columns may stand there: UMNSRS and EHR-Rel are read as they are published.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa

from medrep import contract
from medrep.cdm import engine, table_files
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.progress import print_line
from medrep.settings import EncoderConfig
from medrep.vectors import concept_index, concept_vectors, quality

ENCODER_ARM = "encoder"
"""In the column `arm`: the text encoder's own vectors of the terms."""
RATING_COLUMNS = ("rating", "mean", "mean_rating")
END_COLUMNS = {
    "concept_id": [("concept_id_1", "concept_id_2")],
    "snomed_id": [("snomed_id_1", "snomed_id_2")],
    "term": [("term1", "term2"), ("term_1", "term_2"), ("snomed_label_1", "snomed_label_2")],
}
"""What may name a pair's two ends, in the order in which their concepts are looked for."""


# ---- files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RatedPairs:
    """The pairs of one file."""

    name: str
    """The file's, without its ending."""
    rating: np.ndarray
    """float64 (pairs,)."""
    ends: dict[str, list[str]]
    """Of END_COLUMNS those that the file has: a pair's first end, its second, the next pair's first, ..."""


def read_files(paths: Sequence[str | Path]) -> list[RatedPairs]:
    files = [read_file(Path(path)) for path in dict.fromkeys(paths)]
    names = [file.name for file in files]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two files of rated pairs are called {twice}: results name pairs by their file, so give one another name")
    return files


def read_file(path: Path) -> RatedPairs:
    place = contract.display_path(path)
    if not path.is_file():
        raise UserError(f"{place} is missing: it must be a file of rated pairs, a header and a pair a line")
    table_files.count_lines(path)  # refuses what is not UTF-8
    lines = read_lines(path)
    names = [name.strip().lower() for name in next(lines, ("", []))[1]]
    rating_at, ends_at = find_columns(names, place)
    rating, ends = [], {way: [] for way in ends_at}
    for where, fields in lines:
        if len(fields) != len(names):
            raise UserError(f"{where} has {len(fields)} fields and the header {len(names)}: a name with a comma must stand in quotes")
        rating.append(parse_rating(fields[rating_at], where))
        for way, columns in ends_at.items():
            ends[way] += [fields[column].strip() for column in columns]
        if not all(any(known[end] for known in ends.values()) for end in (-2, -1)):
            raise UserError(f"{where} does not name both of its ends")
    if not rating:
        raise UserError(f"{place} has no pair below its header")
    return RatedPairs(path.stem, np.array(rating), ends)


def read_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(file and line, fields) of each line that is not empty, the header first; tabs separate the fields if the header has one, else commas."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        delimiter = "\t" if "\t" in file.readline() else ","
        file.seek(0)
        lines = csv.reader(file, delimiter=delimiter)
        try:
            yield from ((f"{contract.display_path(path)} line {lines.line_num}", fields) for fields in lines if fields)
        except csv.Error as problem:
            raise UserError(f"{contract.display_path(path)} line {lines.line_num} is not CSV: {problem}") from None


def find_columns(names: list[str], place: str) -> tuple[int, dict[str, tuple[int, int]]]:
    """Where the rating stands, and for each way of naming the ends that the file has where the two stand."""
    rating = next((names.index(name) for name in RATING_COLUMNS if name in names), None)
    ends = {}
    for way, known in END_COLUMNS.items():
        if pair := next((pair for pair in known if set(pair) <= set(names)), None):
            ends[way] = (names.index(pair[0]), names.index(pair[1]))
    if rating is None or not ends:
        wanted = " or ".join(" and ".join(pair) for known in END_COLUMNS.values() for pair in known)
        raise UserError(f"{place} line 1 must name a column {' or '.join(RATING_COLUMNS)}, and {wanted}; it names {', '.join(names) or 'none'}")
    return rating, ends


def parse_rating(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where} has the rating {text!r}, which is no number")
    return number


# ---- the index's concepts ----------------------------------------------------------------------------------


def read_concept_keys(con: ibis.BaseBackend, ids: pa.Array, wanted: set[str]) -> dict[str, str]:
    """{key: concept} of the index's plain concepts; a key is a name or synonym in lower case, or `SNOMED 22298006`.

    Of several concepts with one name a standard one comes before others, one's name before another's synonym, then the lowest id.
    """
    plain, decile = concept_index.split_deciles(ids)
    concept = athena.read_vocabulary_table(con, "concept").semi_join(ibis.memtable(pa.table({"concept_id": plain[decile < 0]})), "concept_id")
    standard = (concept.standard_concept == "S").fill_null(False) if "standard_concept" in concept.columns else ibis.literal(True)
    concept = engine.materialize_as_parquet(
        con, concept.select("concept_id", "concept_name", "vocabulary_id", "concept_code", rank=standard.ifelse(0, 2).cast("int64"))
    )
    keys = concept.select("concept_id", "rank", key=concept.concept_name.lower())
    coded = concept.filter(concept.vocabulary_id == "SNOMED")
    keys = keys.union(coded.select("concept_id", "rank", key=ibis.literal("SNOMED ") + coded.concept_code))
    synonym = athena.read_vocabulary_table(con, "concept_synonym")
    if synonym is not None:
        named = synonym.select("concept_id", key=synonym.concept_synonym_name.lower()).inner_join(concept.select("concept_id", "rank"), "concept_id")
        keys = keys.union(named.select("concept_id", "key", rank=named["rank"] + 1).select("concept_id", "rank", "key"))
    found = keys.semi_join(ibis.memtable(pa.table({"key": sorted(wanted)})), "key").to_pandas()
    found = found.sort_values(["rank", "concept_id"]).drop_duplicates("key")
    return dict(zip(found["key"], found["concept_id"].astype(str), strict=True))


def find_concept_rows(con: ibis.BaseBackend, ids: pa.Array, pairs: RatedPairs) -> np.ndarray:
    """int64 (pairs, 2): the row of each end's concept, -1 where the index has none.

    By its concept id, else its SNOMED code, else its name or a synonym as it stands, in any case.
    """
    keys = {
        "snomed_id": [f"SNOMED {code}" for code in pairs.ends.get("snomed_id", [])],
        "term": [term.lower() for term in pairs.ends.get("term", [])],
    }
    wanted = {key for known in keys.values() for key in known}
    concepts = read_concept_keys(con, ids, wanted) if wanted else {}
    rows = np.full(2 * len(pairs.rating), -1)
    for way, ends in pairs.ends.items():
        named = ends if way == "concept_id" else [concepts.get(key, "") for key in keys[way]]
        rows = np.where(rows >= 0, rows, concept_vectors.find_rows(ids, named))
    return rows.reshape(-1, 2)


def choose_asked_pairs(con: ibis.BaseBackend, ids: pa.Array, pairs: RatedPairs) -> tuple[np.ndarray, np.ndarray]:
    """The rows (pairs, 2) and ratings of the pairs whose concepts the index has; says how many it has not.

    Two terms of one concept ask nothing of vectors: any arm would say that they are the same.
    """
    rows = find_concept_rows(con, ids, pairs)
    found = (rows >= 0).all(axis=1)
    same = found & (rows[:, 0] == rows[:, 1])
    print_line(
        f"{pairs.name}: {len(rows):,} rated pairs; {(found & ~same).sum():,} of two concepts of the index, "
        f"{(~found).sum():,} not found, {same.sum():,} of one concept"
    )
    return rows[found & ~same], pairs.rating[found & ~same]


# ---- the text encoder --------------------------------------------------------------------------------------


def encoder_rows(files: Sequence[RatedPairs], settings: EncoderConfig) -> list[dict]:
    """Rows of quality.csv: the encoder's vectors of all terms as they stand, whatever the vocabulary has. On the CPU: some thousand names."""
    from medrep.vectors import text_encoder  # seconds of torch that only those wait for who need it

    encoder = text_encoder.open_text_encoder(contract.encoder_folder(), settings)
    rows = []
    for pairs in files:
        terms = pairs.ends.get("term", [])
        both = np.array([bool(term) for term in terms], dtype=bool).reshape(-1, 2).all(axis=1)
        if not both.any():
            print_line(f"{pairs.name} has no terms, so that it does not judge the text encoder")
            continue
        vectors, _ = text_encoder.encode_texts(encoder, terms, text_encoder.CPU_BATCH_TOKENS)
        rows += quality.rated_pair_rows(ENCODER_ARM, vectors, np.arange(len(terms)).reshape(-1, 2)[both], pairs.rating[both], pairs.name)
    return rows
