"""What of a hospital's codes can be read: by a model that knows another hospital's codes, and by one that reads concept vectors.

    kinds = {CODE_INPUT: classify_by_codes(theirs, known), "medrep": classify_by_vectors(tokens, "medrep")}
    compute_shares(count_by_domain(trajectories, len(theirs)), source_vocabularies(tokens), kinds)

experiments/vocabulary_coverage.py says what each kind means.
"""

import numpy as np
import pandas as pd

from medrep import contract
from medrep.cdm import engine, table_files
from medrep.contract import DOMAINS
from medrep.patients import sequences
from medrep.progress import print_line
from medrep.vectors import concept_index, concept_vectors
from medrep.vocabulary import ancestors, terminology
from medrep.vocabulary.ancestors import map_tokens_by_ancestors
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, Vocabulary, plain_token

CODE_INPUT = "codes"
KNOWN, OWN_VECTOR, WITHOUT_DECILE, ANCESTOR, UNREADABLE = "known", "own", "plain", "ancestor", "lost"
CODE_KINDS, VECTOR_KINDS = (KNOWN, WITHOUT_DECILE, ANCESTOR, UNREADABLE), (OWN_VECTOR, WITHOUT_DECILE, ANCESTOR, UNREADABLE)
UNKNOWN = "unknown"
EVENTS_PER_CHUNK = 2**24


# ---- how tokens are read ---------------------------------------------------------------------------------------


def kinds_of_input(input_name: str) -> tuple[str, ...]:
    return CODE_KINDS if input_name == CODE_INPUT else VECTOR_KINDS


def classify_by_codes(theirs: Vocabulary, known: Vocabulary) -> np.ndarray:
    """How a model that knows the tokens of `known` reads each of `theirs`, special ones left out: one of CODE_KINDS.

    As --oov ancestor of finetune.py does it; without data/concepts nothing is known of ancestors.
    """
    special = len(SPECIAL_TOKENS)
    if contract.concepts_folder().is_dir():
        how = map_tokens_by_ancestors(theirs, known)[1][special:]
        return np.select([how == ancestors.OWN, how == ancestors.NONE], [KNOWN, UNREADABLE], how)
    print_line("data/concepts is not there: no ancestors can be looked up")
    return np.array(
        [
            KNOWN if token in known.number else WITHOUT_DECILE if plain_token(token) in known.number else UNREADABLE
            for token in theirs.tokens[special:]
        ]
    )


def classify_by_vectors(tokens: list[str], rep: str) -> np.ndarray:
    """How a model that reads the vectors of `rep` finds one for each of `tokens`: one of VECTOR_KINDS."""
    _, how = concept_vectors.gather_vectors(tokens, rep)
    return np.where(how == ancestors.NONE, UNREADABLE, how)


def classify_by_index(tokens: list[str]) -> np.ndarray:
    """The same of any representation, as all have the rows of concept_idx.csv: no vectors are needed."""
    ids = concept_index.read_concept_index()
    concept_index.check_index(ids)
    _, how, _ = concept_vectors.find_vector_rows(tokens, ids)
    return np.where(how == ancestors.NONE, UNREADABLE, how)


def source_vocabularies(tokens: list[str]) -> np.ndarray:
    """The vocabulary_id of each token's concept; UNKNOWN where data/concepts does not say it."""
    if not contract.concepts_folder().is_dir():
        return np.full(len(tokens), UNKNOWN)
    plain = [int(plain_token(token)) for token in tokens]
    with table_files.csv_errors_in_words():
        table = terminology.read_concept_names(engine.connect(), np.unique(plain))
    named = dict(zip(table["concept_id"].to_pylist(), table["vocabulary_id"].to_pylist(), strict=True))
    return np.array([named.get(concept) or UNKNOWN for concept in plain])


# ---- shares ------------------------------------------------------------------------------------------------------


def count_by_domain(trajectories: sequences.Trajectories, tokens: int) -> np.ndarray:
    """int64 (domains, tokens): the events of each of the hospital's tokens, special ones included, in each domain."""
    counts = np.zeros((len(DOMAINS) + 1) * tokens, dtype=np.int64)
    for first in range(0, len(trajectories.token), EVENTS_PER_CHUNK):  # some at a time: a hospital may have a billion
        part = slice(first, first + EVENTS_PER_CHUNK)
        counts += np.bincount(trajectories.domain[part].astype(np.int64) * tokens + trajectories.token[part], minlength=len(counts))
    return counts.reshape(-1, tokens)[1:]


def compute_shares(counts: np.ndarray, vocabularies: np.ndarray, kinds_by_input: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row for each part of the hospital, reading and kind: by, part, reading, kind, events, events_share, concepts, concepts_share.

    counts: (domains, tokens), of events; vocabularies, and the kinds in each of `kinds_by_input`: (tokens,).
    """
    total = counts.sum(axis=0)
    parts = [("all", "all", total), *(("domain", name, counts[i]) for i, name in enumerate(DOMAINS))]
    parts += [("vocabulary", str(name), np.where(vocabularies == name, total, 0)) for name in np.unique(vocabularies)]
    rows = []
    for by, part, n in parts:
        if not n.any():
            continue
        for input_name, kinds in kinds_by_input.items():
            for kind in kinds_of_input(input_name):
                of = kinds == kind
                events, concepts = int(n[of].sum()), int((n[of] > 0).sum())
                rows.append(
                    {
                        "by": by,
                        "part": part,
                        "reading": input_name,
                        "kind": kind,
                        "events": events,
                        "events_share": events / n.sum(),
                        "concepts": concepts,
                        "concepts_share": concepts / (n > 0).sum(),
                    }
                )
    return pd.DataFrame(rows)


def merge_identical_inputs(kinds_by_input: dict[str, np.ndarray]) -> dict[str, str]:
    """{reading: what to call it}, of those that read alike the first alone: arms of one index differ in their vectors, not in who has one."""
    named = {}
    for name, kinds in kinds_by_input.items():
        alike = next((other for other in named if CODE_INPUT not in (other, name) and np.array_equal(kinds_by_input[other], kinds)), name)
        named[alike] = f"{named[alike]}, {name}" if alike in named else name
    return named
