"""Print the concepts nearest to one, by cosine.

    cd codes
    python representation/neighbours.py "metformin" -k 10 --rep medrep
    python representation/neighbours.py 3004410_7                          # by id; a decile

Reads   usedata/representation (concept_idx.csv, concept_representation_{rep}.npy), data/concepts (CONCEPT)
Writes  usedata/representation/neighbours_{rep}.faiss, once, where the array has more than a million rows; below, it is exact

A name is looked for as it stands, in any case, then within names; several matches are listed to choose from.
"""

import argparse

import ibis
import numpy as np
import pyarrow as pa

from medrep import config
from medrep.cdm import engine, table_files
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.progress import print_line
from medrep.vectors import concept_index, concept_vectors, representations, texts

MAX_MATCHES_SHOWN = 20  # matches of a name


def find_matches(concept: ibis.Table, index: ibis.Table, text: str) -> pa.Table:
    """concept_id, concept_name, domain_id of the index's concepts called `text`; if none is, of those whose name holds it."""
    t = concept.semi_join(index, "concept_id").select("concept_id", "concept_name", "domain_id").distinct()
    lower = t.concept_name.lower()
    for rows in (t.filter(lower == text.lower()), t.filter(lower.contains(text.lower()))):
        found = rows.order_by(rows.concept_name.length(), "concept_id").to_pyarrow()
        if len(found):
            break
    return found


def choose_concept(text: str, ids: pa.Array, con) -> str:
    """The id that `text` means, itself an id or a name; several are listed for the user to choose from."""
    if concept_vectors.find_rows(ids, [text])[0] >= 0:
        return text
    if text.replace("_", "").isdigit():
        raise UserError(f"concept {text} is not in the index: it has no vector of its own")
    plain = np.unique(concept_index.split_deciles(ids)[0])
    found = find_matches(athena.read_vocabulary_table(con, "concept"), ibis.memtable(pa.table({"concept_id": plain})), text)
    if not len(found):
        raise UserError(f"no concept of the index is called {text!r}, or has it in its name: try a shorter word, or a concept id")
    if len(found) > 1:
        for row in found.slice(0, MAX_MATCHES_SHOWN).to_pylist():
            print_line(f"{row['concept_id']:>12}  {row['concept_name']}  ({row['domain_id']})")
        more = f", {MAX_MATCHES_SHOWN} of them above" if len(found) > MAX_MATCHES_SHOWN else ""
        raise UserError(f"{len(found):,} concepts match {text!r}{more}: give the id of the one you mean")
    return str(found["concept_id"][0].as_py())


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("concept", help="a concept id, or a name")
    parser.add_argument("-k", type=int, default=10, help="how many")
    representations.add_rep_argument(parser, "--rep", none=False)
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.k < 1:
        raise UserError(f"-k {args.k}: ask for 1 neighbour or more")

    ids, array = concept_vectors.open_vectors(args.rep)
    concept_index.check_index(ids)
    with table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)
        query = choose_concept(args.concept, ids, con)
        own = concept_vectors.find_rows(ids, [query])
        vector = array[own]
        concept_vectors.check_finite(vector, [query], args.rep)
        near, cosine = concept_vectors.nearest_neighbours(vector, args.rep, args.k + 1)
        kept = (near[0] != own[0]) & (near[0] >= 0)
        near, cosine = near[0][kept][: args.k], cosine[0][kept][: args.k]
        names = ids.take(near).to_pylist()
        (itself, *others) = texts.describe_concepts([query, *names], con)
    print_line(f"nearest to {query}, {itself[0]} ({itself[1]}), in {args.rep}:")
    for concept, (name, domain), c in zip(names, others, cosine, strict=True):
        print_line(f"{concept:>12}  {name}  ({domain})  {c:.4f}")


if __name__ == "__main__":
    main()
