"""Choose the concepts that get a vector: those that the hospitals use, and their neighbours.

    cd codes
    python representation/concepts.py

Reads   usedata/{hospital}/vocabulary.json of every hospital, data/concepts (CONCEPT, CONCEPT_RELATIONSHIP)
Writes  usedata/representation/concept_idx.csv

Row number = row of every array. A measurement that has a decile token in some hospital has all ten deciles: another
hospital may need those that this one lacks. If published files lie in usedata/representation, they are used as they are.
"""
import argparse
from collections.abc import Iterable

import ibis

from medrep import concepts, config, contract, engine, omop, vocabulary
from medrep.contract import Made
from medrep.errors import UserError
from medrep.progress import report_kept, say, stage

DOMAINS = ["Condition", "Drug", "Measurement", "Procedure"]  # OMOP's domain_id; the paper's four


def used_concepts(tokens: Iterable[str]) -> tuple[set[int], set[int]]:
    """The concepts of `tokens`, and those of them that have a decile token."""
    parts = [token.partition("_") for token in tokens]
    return {int(plain) for plain, _, _ in parts}, {int(plain) for plain, _, decile in parts if decile}


def find_known(concept: ibis.Table, used: ibis.Table) -> ibis.Table:
    """concept_id of the used concepts that CONCEPT has, whatever their domain."""
    return concept.semi_join(used, "concept_id").select("concept_id").distinct()


def find_neighbours(concept: ibis.Table, relationship: ibis.Table, known: ibis.Table) -> ibis.Table:
    """concept_id of what a valid relationship joins to a known concept, within the four domains."""
    pairs = omop.valid(relationship)
    there = pairs.select(concept_id="concept_id_1", neighbour="concept_id_2")
    back = pairs.select(concept_id="concept_id_2", neighbour="concept_id_1")
    near = ibis.union(there, back).semi_join(known, "concept_id").select(concept_id="neighbour").distinct()
    four = concept.filter(concept.domain_id.isin(DOMAINS))
    return four.semi_join(near, "concept_id").anti_join(known, "concept_id").select("concept_id").distinct()


def make_index(plain: set[int], with_deciles: set[int]) -> list[str]:
    """Ids as text by number, a concept's deciles below it."""
    return [token for concept in sorted(plain) for token in
            [str(concept), *([f"{concept}_{decile}" for decile in concepts.DECILES] if concept in with_deciles else [])]]


def ids_of(table: ibis.Table) -> set[int]:
    return set(table.to_pyarrow()["concept_id"].to_pylist())


def read_tokens() -> dict[str, list[str]]:
    """{hospital: its tokens} of the hospitals that are preprocessed."""
    hospitals = contract.hospitals_with_data()
    ready = [h for h in hospitals if contract.vocabulary_file(h).exists()]
    if not ready:
        raise UserError("no hospital under data/ has a usedata/{hospital}/vocabulary.json; preprocessing/run.sh writes it")
    if late := sorted(set(hospitals) - set(ready)):
        say(f"not preprocessed, so its concepts are left out: {', '.join(late)}")
    special = len(vocabulary.SPECIAL_TOKENS)
    return {h: list(vocabulary.of_hospital(h).tokens[special:]) for h in ready}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    if concepts.published():
        return
    tokens = read_tokens()
    made = Made(contract.concept_index_file(), inputs=[*(contract.vocabulary_file(h) for h in tokens),
                                                      *omop.files("concepts", "concept", "concept_relationship")])
    if made.is_current():
        return
    with stage("concepts") as figures, omop.named_mistakes():
        con = engine.connect(args.engine, args.memory, args.threads)
        used, with_deciles = used_concepts(token for of_hospital in tokens.values() for token in of_hospital)
        concept, relationship = omop.vocabulary(con, "concept"), omop.vocabulary(con, "concept_relationship")
        table = ibis.memtable({"concept_id": sorted(used)}, schema={"concept_id": "int64"})
        known = ids_of(find_known(concept, table))
        missing = sorted(used - known)
        report_kept(f"concepts that {' and '.join(tokens)} use", len(used), {"missing from CONCEPT": len(missing)}, len(known))
        if missing:
            say("missing from CONCEPT, so without a row: " + ", ".join(map(str, missing[:20])) + (" ..." if len(missing) > 20 else ""))
        if not known:
            raise UserError("data/concepts/CONCEPT has none of the concepts that the hospitals use: download the vocabularies they are coded in")
        known_table = ibis.memtable({"concept_id": sorted(known)}, schema={"concept_id": "int64"})
        near = ids_of(find_neighbours(concept, relationship, known_table))
        index = make_index(known | near, with_deciles & known)
        concepts.write_index(index)
        figures.update(used=len(known), missing=len(missing), neighbours=len(near), with_deciles=len(with_deciles & known), rows=len(index))
        say(f"{contract.show(contract.concept_index_file())}: {len(index):,} rows: {len(known):,} used, {len(near):,} neighbours, "
            f"{10 * len(with_deciles & known):,} deciles")
        made.record()


if __name__ == "__main__":
    main()
