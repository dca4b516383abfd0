"""Measures of what vectors know of the vocabulary: each gives rows of results/representation/quality.csv.

The measures are said in representation/evaluate.py. Intervals are the middle 95 % of a bootstrap, with the same draws for all arms.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from medrep.vectors import concept_pairs, nearest
from medrep.vectors.concept_pairs import ConceptGraph
from medrep.vectors.nearest import Rows
from medrep.vocabulary import holdout

BOOTSTRAP_DRAWS = 200
MAX_QUERIES = 2_000  # concepts whose neighbours are looked up, edges whose end is retrieved, measurements
K = 10  # nearest neighbours, and ranks that count as found
RETRIEVAL_RELATIONSHIPS = {
    "ingredient": ("RxNorm has ing", "Has precise ing"),
    "class": ("RxNorm - ATC", "RxNorm - ATC pr lat", "RxNorm - ATC pr up", "RxNorm - ATC sec lat", "RxNorm - ATC sec up"),
    "parent": ("Is a", "RxNorm is a"),
}
COLUMNS = ["arm", "measure", "kind", "value", "low", "high", "n"]


def multinomial_weights(n: int) -> np.ndarray:
    """int64 (BOOTSTRAP_DRAWS, n): how often each of n things is drawn; the same for all arms, so that they can be compared."""
    return np.random.default_rng((concept_pairs.SEED, n)).multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP_DRAWS)


def quality_row(arm: str, measure: str, kind: str, value: float, draws: np.ndarray, n: int) -> dict:
    low, high = np.percentile(draws, [2.5, 97.5])
    return dict(zip(COLUMNS, (arm, measure, kind, round(float(value), 4), round(float(low), 4), round(float(high), 4), n), strict=True))


def mean_row(arm: str, measure: str, kind: str, values: np.ndarray) -> list[dict]:
    return (
        [quality_row(arm, measure, kind, values.mean(), multinomial_weights(len(values)) @ values / len(values), len(values))] if len(values) else []
    )


# ---- link prediction ---------------------------------------------------------------------------------------


def pairwise_cosines(array: Rows, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float64 (n,): the cosine of each two rows, rounded so that equal vectors tie."""
    pieces = [slice(i, i + 4096) for i in range(0, len(left), 4096)]
    found = [np.einsum("nw,nw->n", nearest.normalize(array[left[piece]]), nearest.normalize(array[right[piece]])) for piece in pieces]
    return np.round(np.concatenate(found), nearest.DECIMALS) if found else np.zeros(0)


def weighted_aurocs(positive: np.ndarray, negative: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(draws,): P(positive > negative) + P(equal) / 2, each of n positives with its (n, m) negatives `weights` (draws, n) times."""
    _, group = np.unique(np.concatenate([positive, negative.ravel()]), return_inverse=True)
    positive_group, negative_group = group[: len(positive)], group[len(positive) :]
    found = []
    for weight in weights:
        beaten = np.bincount(negative_group, weights=np.repeat(weight, negative.shape[1]), minlength=group.max() + 1)
        found.append((weight * (np.cumsum(beaten) - beaten / 2)[positive_group]).sum() / (weight.sum() * beaten.sum()))
    return np.array(found)


def link_cosines(array: Rows, pairs: np.ndarray, anchors: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of the pairs (n,) and of their negatives (n, NEGATIVES), of those pairs that have all their negatives."""
    whole = (negatives >= 0).all(axis=1)
    pairs, anchors, negatives = pairs[whole], anchors[whole], negatives[whole]
    positive = pairwise_cosines(array, pairs[:, 0], pairs[:, 1])
    return positive, pairwise_cosines(array, np.repeat(anchors, concept_pairs.NEGATIVES), negatives.ravel()).reshape(-1, concept_pairs.NEGATIVES)


def link_rows(arm: str, array: Rows, pairs: np.ndarray, anchors: np.ndarray, negatives: np.ndarray, kind: str) -> list[dict]:
    positive, negative = link_cosines(array, pairs, anchors, negatives)
    n = len(positive)
    if not n:
        return []
    value = weighted_aurocs(positive, negative, np.ones((1, n)))[0]
    return [quality_row(arm, "link_auroc", kind, value, weighted_aurocs(positive, negative, multinomial_weights(n)), n)]


# ---- pairs that people rated -------------------------------------------------------------------------------


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; 0 where one of the two is the same throughout."""
    a, b = rankdata(a), rankdata(b)
    a, b = a - a.mean(), b - b.mean()
    spread = np.sqrt((a**2).sum() * (b**2).sum())
    return float(a @ b / spread) if spread > 0 else 0.0


def rated_pair_rows(arm: str, array: Rows, pairs: np.ndarray, rating: np.ndarray, kind: str) -> list[dict]:
    """How people's ratings of `pairs` (n, 2) and the cosines go together."""
    if len(pairs) < concept_pairs.MIN_PAIRS:
        return []
    cosine = pairwise_cosines(array, pairs[:, 0], pairs[:, 1])
    drawn = [np.repeat(np.arange(len(pairs)), weight) for weight in multinomial_weights(len(pairs))]
    draws = np.array([rank_correlation(rating[rows], cosine[rows]) for rows in drawn])
    return [quality_row(arm, "similarity_rho", kind, rank_correlation(rating, cosine), draws, len(pairs))]


# ---- retrieval ---------------------------------------------------------------------------------------------


def rank_candidates(array: Rows, query: np.ndarray, truth: np.ndarray, candidates: np.ndarray, answers: dict[int, set[int]]) -> np.ndarray:
    """float64 (queries,): the rank of `truth` among `candidates`, 1 the best; equals share the mean of their ranks.

    The query itself and its other right answers do not compete.
    """
    own, asked = pairwise_cosines(array, query, truth), nearest.normalize(array[query])
    higher, equal = np.zeros(len(query)), np.zeros(len(query))
    for first in range(0, len(candidates), 4096):
        some = candidates[first : first + 4096]
        found = np.round(asked @ nearest.normalize(array[some]).T, nearest.DECIMALS)  # (queries, candidates)
        for i, (q, t) in enumerate(zip(query.tolist(), truth.tolist(), strict=True)):
            found[i, np.isin(some, [q, t, *answers[q]])] = -np.inf
        higher += (found > own[:, None]).sum(axis=1)
        equal += (found == own[:, None]).sum(axis=1)
    return 1 + higher + equal / 2


def retrieval_ranks(array: Rows, graph: ConceptGraph, relationships: Sequence[str]) -> np.ndarray:
    """float64 (held-out edges of these relationships,): the rank of an edge's target among all concepts of its domain and class."""
    everything = np.unique(graph.pairs_related_by(relationships), axis=0)
    edges = concept_pairs.sample_rows(everything[holdout.held_out_mask(graph.plain[everything[:, 0]], graph.plain[everything[:, 1]])], MAX_QUERIES)
    answers: dict[int, set[int]] = {}
    for a, b in everything[np.isin(everything[:, 0], edges[:, 0])].tolist():
        answers.setdefault(a, set()).add(b)
    found = np.zeros(len(edges))
    for kind in np.unique(graph.kind[edges[:, 1]]):
        of_kind = graph.kind[edges[:, 1]] == kind
        query, truth = edges[of_kind].T
        found[of_kind] = rank_candidates(array, query, truth, np.flatnonzero(graph.eligible & (graph.kind == kind)), answers)
    return found


def retrieval_rows(arm: str, array: Rows, graph: ConceptGraph) -> list[dict]:
    rows = []
    for target, relationships in RETRIEVAL_RELATIONSHIPS.items():
        found = retrieval_ranks(array, graph, relationships)
        rows += mean_row(arm, "retrieval_mrr", target, 1 / found) + mean_row(arm, f"retrieval_recall_at_{K}", target, (found <= K).astype(float))
    return rows


# ---- neighbourhoods and deciles ----------------------------------------------------------------------------


def neighbour_rows(arm: str, array: Rows, graph: ConceptGraph) -> list[dict]:
    query = concept_pairs.sample_rows(np.flatnonzero(graph.eligible), MAX_QUERIES)
    near, _ = nearest.search_exact(array, array[query], K + 1, among=graph.eligible)
    near = [n[n != q][:K] for n, q in zip(near, query, strict=True)]
    up = graph.pairs_related_by(RETRIEVAL_RELATIONSHIPS["parent"])
    children = np.bincount(up[:, 1], minlength=len(graph.plain))
    parents: dict[int, set[int]] = {}
    for child, parent in up[np.isin(up[:, 0], np.concatenate([query, *near]))].tolist():
        parents.setdefault(child, set()).add(parent)
    same = np.array([np.mean(graph.domain[n] == graph.domain[q]) for n, q in zip(near, query, strict=True)])
    siblings = np.array(
        [
            np.mean([not parents[int(q)].isdisjoint(parents.get(int(c), ())) for c in n])
            for n, q in zip(near, query, strict=True)
            if any(children[p] > 1 for p in parents.get(int(q), ()))
        ]
    )
    return mean_row(arm, "neighbours_same_domain", "all", same) + mean_row(arm, "neighbours_share_parent", "with siblings", siblings)


def decile_orders(vectors: np.ndarray) -> np.ndarray:
    """float64 (measurements,): Spearman's correlation over the 45 pairs of deciles of vectors (measurements, 10, width).

    0 where all are equally far apart: there is no order.
    """
    lower, higher = np.triu_indices(10, 1)
    unit = nearest.normalize(vectors.reshape(-1, vectors.shape[-1])).reshape(vectors.shape)
    far = np.round(1 - np.einsum("mpw,mpw->mp", unit[:, lower], unit[:, higher]), nearest.DECIMALS)
    a, b = rankdata(higher - lower), rankdata(far, axis=1)
    a, b = a - a.mean(), b - b.mean(axis=1, keepdims=True)
    spread = np.sqrt((a**2).sum() * (b**2).sum(axis=1))
    return np.divide(b @ a, spread, out=np.zeros(len(b)), where=spread > 0)


def decile_rows(arm: str, array: Rows, graph: ConceptGraph) -> list[dict]:
    of = np.flatnonzero(graph.decile >= 0)
    of = of[np.lexsort((graph.decile[of], graph.plain[of]))]
    measurement, count = np.unique(graph.plain[of], return_counts=True)
    rows = of[np.isin(graph.plain[of], measurement[count == 10])].reshape(-1, 10)
    return mean_row(arm, "decile_order", "all", decile_orders(array[concept_pairs.sample_rows(rows, MAX_QUERIES)])) if len(rows) else []
