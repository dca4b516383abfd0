"""Choose the concepts that get a vector.

    cd codes
    python representation/concepts.py                  # those that the hospitals use, and their neighbours
    python representation/concepts.py --scope used     # only those that the hospitals use
    python representation/concepts.py --scope all      # all of OMOP's conditions, drugs, measurements and procedures

Reads   usedata/{hospital}/vocabulary.json of every hospital, data/concepts (CONCEPT, CONCEPT_RELATIONSHIP)
Writes  usedata/representation/concept_idx.csv

Row number = row of every array. A measurement that has a decile token in some hospital has all ten deciles: another
hospital may need those that this one lacks. With `all`, every measurement has them, and the hospitals change nothing:
two machines with one release of the vocabulary have one index. If published files lie in usedata/representation, they
are used as they are.
"""

import argparse
from collections.abc import Iterable

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medrep import config, contract
from medrep.cdm import engine, table_files
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.progress import print_kept, print_line, timed_stage
from medrep.stamps import Stamp
from medrep.vectors import concept_index, published
from medrep.vocabulary import token_vocabulary

SCOPES = ("used", "neighbours", "all")
DOMAINS = ["Condition", "Drug", "Measurement", "Procedure"]  # OMOP's domain_id; the paper's four


def split_tokens(tokens: Iterable[str]) -> tuple[set[int], set[int]]:
    """The concepts of `tokens`, and those of them that have a decile token."""
    parts = [token.partition("_") for token in tokens]
    return {int(plain) for plain, _, _ in parts}, {int(plain) for plain, _, decile in parts if decile}


def find_known_concepts(concept: ibis.Table, used: ibis.Table) -> ibis.Table:
    """concept_id of the used concepts that CONCEPT has, whatever their domain."""
    return concept.semi_join(used, "concept_id").select("concept_id").distinct()


def find_neighbours(concept: ibis.Table, relationship: ibis.Table, known: ibis.Table) -> ibis.Table:
    """concept_id of what a valid relationship joins to a known concept, within the four domains."""
    pairs = athena.valid_rows(relationship)
    there = pairs.select(concept_id="concept_id_1", neighbour="concept_id_2")
    back = pairs.select(concept_id="concept_id_2", neighbour="concept_id_1")
    near = ibis.union(there, back).semi_join(known, "concept_id").select(concept_id="neighbour").distinct()
    four = concept.filter(concept.domain_id.isin(DOMAINS))
    return four.semi_join(near, "concept_id").anti_join(known, "concept_id").select("concept_id").distinct()


def find_all_concepts(concept: ibis.Table) -> ibis.Table:
    """concept_id and has_deciles (it is a measurement) of every valid concept of the four domains."""
    valid = athena.valid_rows(concept)
    four = valid.filter(valid.domain_id.isin(DOMAINS) & valid.concept_id.notnull())
    return four.select("concept_id", has_deciles=four.domain_id == "Measurement").distinct()


def make_index(plain: np.ndarray, with_deciles: np.ndarray) -> pa.Array:
    """Ids as text by number, a concept's deciles below it."""
    plain, ten = np.unique(plain), len(concept_index.DECILES)
    rows = np.where(np.isin(plain, with_deciles), 1 + ten, 1)
    first = np.repeat(np.cumsum(rows) - rows, rows)
    concept = pc.cast(pa.array(np.repeat(plain, rows)), pa.string())
    decile = pa.array(np.arange(rows.sum()) - first - 1)  # -1 for the plain concept
    return pc.if_else(pc.less(decile, 0), concept, pc.binary_join_element_wise(concept, pc.cast(decile, pa.string()), "_"))


def id_table(ids: np.ndarray | list[int]) -> ibis.Table:
    return ibis.memtable(pa.table({"concept_id": pa.array(ids, pa.int64())}))


def ids_of(table: ibis.Table) -> np.ndarray:
    """The concept_id column, sorted."""
    return np.sort(table.to_pyarrow()["concept_id"].to_numpy())


def read_tokens(required: bool) -> dict[str, list[str]]:
    """{hospital: its tokens} of the hospitals that are preprocessed; one must be if it is `required`."""
    ready = contract.hospitals_with_vocabulary()
    if not ready and required:
        raise UserError("no hospital has a usedata/{hospital}/vocabulary.json; preprocessing/run.sh writes it")
    if required and (late := sorted(set(contract.hospitals_with_data()) - set(ready))):
        print_line(f"not preprocessed, so its concepts are left out: {', '.join(late)}")
    special = len(token_vocabulary.SPECIAL_TOKENS)
    return {h: list(token_vocabulary.load_hospital_vocabulary(h).tokens[special:]) for h in ready}


def choose_used_or_neighbours(con, tokens: dict[str, list[str]], scope: str, figures: dict) -> pa.Array:
    """The index of what the hospitals use, and with scope `neighbours` what is related to it; fills `figures`."""
    used, with_deciles = split_tokens(token for of_hospital in tokens.values() for token in of_hospital)
    concept = athena.read_vocabulary_table(con, "concept")
    known = ids_of(find_known_concepts(concept, id_table(sorted(used))))
    missing = sorted(used - set(known.tolist()))
    print_kept(f"concepts that {' and '.join(tokens)} use", len(used), {"missing from CONCEPT": len(missing)}, len(known))
    if missing:
        print_line("missing from CONCEPT, so without a row: " + ", ".join(map(str, missing[:20])) + (" ..." if len(missing) > 20 else ""))
    if not len(known):
        raise UserError("data/concepts/CONCEPT has none of the concepts that the hospitals use: download the vocabularies they are coded in")
    near = known[:0]
    if scope == "neighbours":
        near = ids_of(find_neighbours(concept, athena.read_vocabulary_table(con, "concept_relationship"), id_table(known)))
    with_deciles = np.intersect1d(known, sorted(with_deciles))
    figures.update(used=len(known), missing=len(missing), neighbours=len(near), with_deciles=len(with_deciles))
    print_line(f"{len(known):,} used, {len(near):,} neighbours, {10 * len(with_deciles):,} deciles")
    return make_index(np.concatenate([known, near]), with_deciles)


def choose_all_concepts(con, tokens: dict[str, list[str]], figures: dict) -> pa.Array:
    """The index of every valid concept of the four domains; says what the hospitals use beside; fills `figures`."""
    concept = athena.read_vocabulary_table(con, "concept")
    if lost := int(concept.concept_id.isnull().sum().execute() or 0):
        print_line(f"{lost:,} rows of data/concepts/CONCEPT have no readable concept_id: they are left out")
    found = find_all_concepts(concept).to_pyarrow()
    plain = found["concept_id"].to_numpy()
    with_deciles = plain[found["has_deciles"].to_numpy()]
    if not len(plain):
        raise UserError(f"data/concepts/CONCEPT has no valid concept of the domains {', '.join(DOMAINS)}: download it again")
    if tokens:
        used, _ = split_tokens(token for of_hospital in tokens.values() for token in of_hospital)
        inside = int(np.isin(sorted(used), plain).sum())
        print_kept(
            f"concepts that {' and '.join(tokens)} use",
            len(used),
            {"invalid, of another domain or missing from CONCEPT (read as their nearest ancestors)": len(used) - inside},
            inside,
        )
    figures.update(concepts=len(plain), with_deciles=len(with_deciles))
    print_line(f"{len(plain):,} concepts, {10 * len(with_deciles):,} deciles")
    return make_index(plain, with_deciles)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scope", default="neighbours", choices=SCOPES, help="which concepts; default neighbours")
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    if published.published_representations():
        return
    tokens = read_tokens(required=args.scope != "all")
    vocabularies = [contract.vocabulary_file(h) for h in tokens] if args.scope != "all" else []
    tables = ["concept", "concept_relationship"] if args.scope == "neighbours" else ["concept"]
    stamp = Stamp(contract.concept_index_file(), inputs=[*vocabularies, *athena.input_files(*tables)], settings={"scope": args.scope})
    if stamp.is_current():
        return
    with timed_stage("concepts") as figures, table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)
        index = choose_all_concepts(con, tokens, figures) if args.scope == "all" else choose_used_or_neighbours(con, tokens, args.scope, figures)
        concept_index.write_concept_index(index)
        figures["rows"] = len(index)
        print_line(f"{contract.display_path(contract.concept_index_file())}: {len(index):,} rows")
        stamp.record()


if __name__ == "__main__":
    main()
