"""The index as a graph of concepts and relationships, and the pairs of it that vectors are judged by.

Held-out edges (vocabulary/holdout.py) are the positives; each has negatives that take the place of one of its ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa

from medrep import contract
from medrep.errors import UserError
from medrep.progress import print_line
from medrep.vectors import concept_index
from medrep.vocabulary import holdout, terminology

SEED = 0
MAX_PAIRS = 20_000  # held-out edges of a kind: an AUROC's interval is then under a hundredth wide
MIN_PAIRS = 20  # edges of a kind, below which its AUROC says nothing; concepts on a map
NEGATIVES = 5  # for each pair


@dataclass
class ConceptGraph:
    """The index as CONCEPT and CONCEPT_RELATIONSHIP see it; concepts are rows of the arrays."""

    plain: np.ndarray
    """int64 (concepts,): each row's concept_id."""
    decile: np.ndarray
    """int64 (concepts,): -1 for a plain concept."""
    name: np.ndarray
    """object (concepts,): empty where CONCEPT has not the concept."""
    domain: np.ndarray
    """int64 (concepts,): a number a domain; -1 where CONCEPT has not the concept."""
    domains: list[str]
    kind: np.ndarray
    """int64 (concepts,): a number a domain and class."""
    source: np.ndarray
    """int64 (relationships,): the row of one end."""
    target: np.ndarray
    """int64 (relationships,): the row of the other end, which is another."""
    relationship: np.ndarray
    """int64 (relationships,): a number of `relationships`."""
    relationships: list[str]

    @cached_property
    def edges(self) -> np.ndarray:
        """int64, sorted: source * concepts + target of every relationship, in both directions."""
        size = len(self.plain)
        return np.unique(np.concatenate([self.source * size + self.target, self.target * size + self.source]))

    def pairs_related_by(self, names: Sequence[str]) -> np.ndarray:
        """int64 (n, 2): source and target of the relationships of these names that join two eligible concepts."""
        chosen = np.isin(self.relationship, [i for i, name in enumerate(self.relationships) if name in names])
        chosen &= self.eligible[self.source] & self.eligible[self.target]
        return np.column_stack([self.source[chosen], self.target[chosen]])

    @cached_property
    def eligible(self) -> np.ndarray:
        """bool (concepts,): plain concepts that CONCEPT has."""
        return (self.decile < 0) & (self.domain >= 0)


def look_up_concepts(plain: np.ndarray, con: ibis.BaseBackend) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """CONCEPT's rows of the concepts `plain` (concepts,); each concept's place among them; and whether it is there."""
    table = terminology.read_concept_names(con, np.unique(plain)).to_pandas()
    if not len(table):
        raise UserError(
            f"data/concepts/CONCEPT has none of the concepts of {contract.display_path(contract.concept_index_file())}: "
            "put the vocabulary there that they are of"
        )
    place = np.searchsorted(table.concept_id, plain).clip(max=max(0, len(table) - 1))
    return table, place, table.concept_id.to_numpy()[place] == plain


def number_kinds(table: pd.DataFrame, place: np.ndarray, known: np.ndarray) -> np.ndarray:
    """int64 (concepts,): a number a domain and class, of what look_up_concepts gives; -1 where CONCEPT has not the concept."""
    return np.where(known, table.groupby(["domain_id", "concept_class_id"]).ngroup().to_numpy()[place], -1)


def read_concept_graph(ids: pa.Array, con: ibis.BaseBackend) -> ConceptGraph:
    """The graph of the concepts `ids` of the index; says how many of them CONCEPT has not."""
    plain, decile = concept_index.split_deciles(ids)
    rows = np.flatnonzero(decile < 0)
    rows = rows[np.argsort(plain[rows])]
    table, place, known = look_up_concepts(plain, con)
    if lost := int((~known & (decile < 0)).sum()):
        print_line(f"{lost:,} concepts of the index are not in data/concepts/CONCEPT, such as {plain[~known][0]}: they are left out")
    domains = sorted(table.domain_id.unique())
    domain = np.where(known, np.searchsorted(domains, table.domain_id)[place], -1)
    kind = number_kinds(table, place, known)
    edges = terminology.relationships_within(con, plain[rows])
    source, target = (rows[np.searchsorted(plain[rows], edges[end].to_numpy())] for end in ("concept_id_1", "concept_id_2"))
    name = np.where(known, table.concept_name.to_numpy(dtype=object)[place], "")
    relationship = edges["relationship_id"].combine_chunks().dictionary_encode()
    return ConceptGraph(
        plain,
        decile,
        name,
        domain,
        domains,
        kind,
        source,
        target,
        relationship.indices.to_numpy().astype(np.int64),
        relationship.dictionary.to_pylist(),
    )


def sample_rows(rows: np.ndarray, max_rows: int) -> np.ndarray:
    """At most `max_rows` of them, drawn by SEED, in their order."""
    return rows[np.sort(np.random.default_rng(SEED).permutation(len(rows))[:max_rows])]


def join_inverse_names(relationship: np.ndarray, source: np.ndarray, target: np.ndarray) -> dict[str, str]:
    """{`Subsumes`: `Is a / Subsumes`}: a relationship and what the same edges are mostly called the other way round."""
    edges = pd.DataFrame({"kind": relationship, "a": source, "b": target})
    both = edges.merge(edges.rename(columns={"a": "b", "b": "a", "kind": "back"}), on=["a", "b"])
    counts = both.groupby(["kind", "back"]).size().reset_index(name="n").sort_values(["kind", "n", "back"], ascending=[True, False, True])
    back = counts.drop_duplicates("kind").set_index("kind").back.to_dict()
    return {kind: " / ".join(sorted({kind, back.get(kind, kind)})) for kind in pd.unique(relationship)}


def held_out_pairs(graph: ConceptGraph, unsaid_filter: Callable[[np.ndarray], np.ndarray] | None) -> dict[str, np.ndarray]:
    """{kind: rows (n, 2)} of the held-out edges, each once whichever way it is written; `unsaid_filter` gives those of `all, unsaid`."""
    held = holdout.held_out_mask(graph.plain[graph.source], graph.plain[graph.target]) & graph.eligible[graph.source] & graph.eligible[graph.target]
    pairs = np.sort(np.column_stack([graph.source, graph.target])[held], axis=1)
    if not len(pairs):
        print_line("no held-out edge joins two concepts of the index: there is no link prediction and no retrieval")
        return {}
    kinds = np.array(graph.relationships, dtype=object)[graph.relationship[held]]
    names = join_inverse_names(kinds, graph.source[held], graph.target[held])
    kinds = np.array([names[kind] for kind in kinds], dtype=object)
    everything = sample_rows(np.unique(pairs, axis=0), MAX_PAIRS)
    found = {"all": everything, "all, unsaid": everything[unsaid_filter(everything)] if unsaid_filter else everything[:0]}
    found |= {kind: sample_rows(np.unique(pairs[kinds == kind], axis=0), MAX_PAIRS) for kind in sorted(set(kinds))}
    return {kind: pairs for kind, pairs in found.items() if len(pairs) >= MIN_PAIRS or kind == "all"}


def make_unmentioned_pair_filter(text: dict[str, str], graph: ConceptGraph) -> Callable[[np.ndarray], np.ndarray]:
    """A function from pairs (n, 2) to bool (n,): neither end's definition names the other end."""

    def names_other(a: int, b: int) -> bool:
        return str(graph.name[b]).lower() in text.get(str(graph.plain[a]), "").lower()

    return lambda pairs: np.array([not (names_other(a, b) or names_other(b, a)) for a, b in pairs], dtype=bool)


def draw_negatives(graph: ConceptGraph, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each pair (n, 2) the end that stays, its anchor (n,), and NEGATIVES that take the other's place (n, NEGATIVES), -1 where none is found.

    A negative has the other end's domain and class and no relationship with the end that stays; a coin says which end
    stays. Negatives are drawn in proportion to their number of relationships. Drawn evenly, degree alone would reach AUROC
    0.76 (on a public vocabulary); drawn from the whole domain, class alone 0.87.
    """
    random, size = np.random.default_rng(SEED), len(graph.plain)
    coin = random.random(len(pairs)) < 0.5
    anchors, replaced = np.where(coin, pairs[:, 0], pairs[:, 1]), np.where(coin, pairs[:, 1], pairs[:, 0])
    pool, related = np.divmod(graph.edges, max(1, size))  # a concept stands there once for each that it is related to
    pool = pool[graph.eligible[pool] & graph.eligible[related]]
    pool = pool[np.argsort(graph.kind[pool], kind="stable")]
    first, last = (np.searchsorted(graph.kind[pool], graph.kind[replaced], side=side)[:, None] for side in ("left", "right"))
    negatives = np.full((len(pairs), NEGATIVES), -1)
    for _ in range(20):  # a hub among few of its class may have none
        candidates = pool[first + (random.random(negatives.shape) * (last - first)).astype(np.int64)]
        key = anchors[:, None] * size + candidates
        free = (graph.edges[np.searchsorted(graph.edges, key).clip(max=len(graph.edges) - 1)] != key) & (candidates != anchors[:, None])
        negatives = np.where((negatives < 0) & free, candidates, negatives)
    return anchors, negatives
