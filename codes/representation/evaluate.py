"""Say what each arm's vectors know, before any patient model: one table and two maps over all arms that are there.

    cd codes
    python representation/evaluate.py
    python representation/evaluate.py --own path/to/own.npy   # beside the arms

Reads   usedata/representation (concept_idx.csv, concept_representation_*.npy, definitions if they are there), data/concepts
Writes  results/representation/quality.csv: space, arm, measure, kind, value, low, high, n; map_pca.png, map_tsne.png

    link_auroc          a held-out edge's cosine above that of one end with a stranger of the other end's domain and class,
                        drawn as often as it has relationships: neither classes nor hubs alone say which is which
    retrieval_*         of all concepts of its domain and class, where the held-out ingredient, class or parent ranks
    neighbours_*        share of a concept's 10 nearest that have its domain, or share a parent with it
    decile_order        rank correlation of two deciles' distance in number and in cosine, within a measurement

Held out is what concept_vectors.held_out_mask says; only plain concepts are asked about, except for deciles. `all, unsaid` are the
held-out edges of which neither end's definition names the other end: a definition composed from relationships has read
the others. low and high are the middle 95 % of a bootstrap over what n counts. Cosines are of the vectors `as_read` by
the patient model, which whitens them (behrt.py, set_concept_vectors), and of the `raw` ones, as neighbours.py takes them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import ibis
import matplotlib
import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.stats import rankdata

from medrep import config, contract, storage
from medrep.cdm import engine, table_files
from medrep.cdm.sources import omop
from medrep.errors import UserError
from medrep.patients.behrt import RescaledVectors
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.stamps import Stamp
from medrep.tables import DEFINITIONS
from medrep.vectors import concept_vectors, nearest
from medrep.vocabulary import terminology

SEED, DRAWS = 0, 200
MAX_PAIRS = 20_000  # held-out edges of a kind: an AUROC's interval is then under a hundredth wide
MAX_QUERIES = 2_000  # concepts whose neighbours are looked up, edges whose end is retrieved, measurements
MIN_PAIRS = 20  # edges of a kind, below which its AUROC says nothing; concepts on a map
NEGATIVES, K = 5, 10
MAP_CONCEPTS, MAP_COLOURS = 1_000, 8  # concepts on a map; domains with a colour of their own
RETRIEVAL_RELATIONSHIPS = {
    "ingredient": ("RxNorm has ing", "Has precise ing"),
    "class": ("RxNorm - ATC", "RxNorm - ATC pr lat", "RxNorm - ATC pr up", "RxNorm - ATC sec lat", "RxNorm - ATC sec up"),
    "parent": ("Is a", "RxNorm is a"),
}
WHITENING_ROWS = 50_000  # concepts that the whitening is learned from
COLUMNS = ["arm", "measure", "kind", "value", "low", "high", "n"]


@dataclass
class Vocabulary:
    """The index as CONCEPT and CONCEPT_RELATIONSHIP see it; concepts are rows of the arrays."""

    plain: np.ndarray
    """int64 (concepts,): each row's concept_id."""
    decile: np.ndarray
    name: np.ndarray
    domain: np.ndarray
    """int64 (concepts,): a number a domain; -1 where CONCEPT has not the concept."""
    domains: list[str]
    kind: np.ndarray
    """int64 (concepts,): a number a domain and class."""
    source: np.ndarray
    target: np.ndarray
    """int64 (relationships,): rows of both ends, which differ."""
    relationship: np.ndarray
    """int64 (relationships,): a number of `relationships`."""
    relationships: list[str]

    @cached_property
    def edges(self) -> np.ndarray:
        """int64, sorted: source * concepts + target of every relationship, in both directions."""
        size = len(self.plain)
        return np.unique(np.concatenate([self.source * size + self.target, self.target * size + self.source]))

    def related(self, names: Sequence[str]) -> np.ndarray:
        """int64 (n, 2): source and target of the relationships of these names that join two asked concepts."""
        chosen = np.isin(self.relationship, [i for i, name in enumerate(self.relationships) if name in names])
        chosen &= self.asked[self.source] & self.asked[self.target]
        return np.column_stack([self.source[chosen], self.target[chosen]])

    @cached_property
    def asked(self) -> np.ndarray:
        """bool (concepts,): plain concepts that CONCEPT has."""
        return (self.decile < 0) & (self.domain >= 0)


def read_vocabulary(ids, con) -> Vocabulary:
    plain, decile = concept_vectors.split_deciles(ids)
    rows = np.flatnonzero(decile < 0)
    rows = rows[np.argsort(plain[rows])]
    table = terminology.read_concept_names(con, np.unique(plain)).to_pandas()
    if not len(table):
        raise UserError(
            f"data/concepts/CONCEPT has none of the concepts of {contract.display_path(contract.concept_index_file())}: "
            "put the vocabulary there that they are of"
        )
    place = np.searchsorted(table.concept_id, plain).clip(max=max(0, len(table) - 1))
    known = table.concept_id.to_numpy()[place] == plain
    if lost := int((~known & (decile < 0)).sum()):
        print_line(f"{lost:,} concepts of the index are not in data/concepts/CONCEPT, such as {plain[~known][0]}: they are left out")
    domains = sorted(table.domain_id.unique())
    numbers = {"domain": np.searchsorted(domains, table.domain_id), "kind": table.groupby(["domain_id", "concept_class_id"]).ngroup().to_numpy()}
    domain, kind = (np.where(known, number[place], -1) for number in numbers.values())
    edges = terminology.relationships_within(con, plain[rows])
    source, target = (rows[np.searchsorted(plain[rows], edges[end].to_numpy())] for end in ("concept_id_1", "concept_id_2"))
    name = np.where(known, table.concept_name.to_numpy(dtype=object)[place], "")
    relationship = edges["relationship_id"].combine_chunks().dictionary_encode()
    return Vocabulary(
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


# ---- chance ------------------------------------------------------------------------------------------------


def bootstrap_weights(n: int) -> np.ndarray:
    """int64 (DRAWS, n): how often each of n things is drawn; the same for all arms, so that they can be compared."""
    return np.random.default_rng((SEED, n)).multinomial(n, np.full(n, 1 / n), size=DRAWS)


def quality_row(arm: str, measure: str, kind: str, value: float, draws: np.ndarray, n: int) -> dict:
    low, high = np.percentile(draws, [2.5, 97.5])
    return dict(zip(COLUMNS, (arm, measure, kind, round(float(value), 4), round(float(low), 4), round(float(high), 4), n), strict=True))


def mean_row(arm: str, measure: str, kind: str, values: np.ndarray) -> list[dict]:
    return [quality_row(arm, measure, kind, values.mean(), bootstrap_weights(len(values)) @ values / len(values), len(values))] if len(values) else []


def sample_rows(things: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of them, in their order."""
    return things[np.sort(np.random.default_rng(SEED).permutation(len(things))[:most])]


# ---- link prediction ---------------------------------------------------------------------------------------


def join_inverse_names(relationship: np.ndarray, source: np.ndarray, target: np.ndarray) -> dict[str, str]:
    """{`Subsumes`: `Is a / Subsumes`}: a relationship and what the same edges are mostly called the other way round."""
    edges = pd.DataFrame({"kind": relationship, "a": source, "b": target})
    both = edges.merge(edges.rename(columns={"a": "b", "b": "a", "kind": "back"}), on=["a", "b"])
    counts = both.groupby(["kind", "back"]).size().reset_index(name="n").sort_values(["kind", "n", "back"], ascending=[True, False, True])
    back = counts.drop_duplicates("kind").set_index("kind").back.to_dict()
    return {kind: " / ".join(sorted({kind, back.get(kind, kind)})) for kind in pd.unique(relationship)}


def draw_negatives(v: Vocabulary, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each pair (n, 2) the end that stays (n,) and NEGATIVES that take the other's place (n, NEGATIVES), -1 where none is found.

    A stranger has the other end's domain and class and no relationship with the end that stays; a coin says which end
    stays. It is drawn with a chance that grows with its relationships, as ends of relationships are: with one drawn evenly,
    a score that knows nothing but how many each concept has tells the two apart (AUROC 0.76 on a public vocabulary), and
    one that knows nothing but their classes does, too, with one of the whole domain (0.87).
    """
    random, size = np.random.default_rng(SEED), len(v.plain)
    coin = random.random(len(pairs)) < 0.5
    stays, goes = np.where(coin, pairs[:, 0], pairs[:, 1]), np.where(coin, pairs[:, 1], pairs[:, 0])
    pool, other = np.divmod(v.edges, max(1, size))  # a concept stands there once for each that it is related to
    pool = pool[v.asked[pool] & v.asked[other]]
    pool = pool[np.argsort(v.kind[pool], kind="stable")]
    first, last = (np.searchsorted(v.kind[pool], v.kind[goes], side=side)[:, None] for side in ("left", "right"))
    strangers = np.full((len(pairs), NEGATIVES), -1)
    for _ in range(20):  # a hub among few of its class may have no stranger
        drawn = pool[first + (random.random(strangers.shape) * (last - first)).astype(np.int64)]
        key = stays[:, None] * size + drawn
        free = (v.edges[np.searchsorted(v.edges, key).clip(max=len(v.edges) - 1)] != key) & (drawn != stays[:, None])
        strangers = np.where((strangers < 0) & free, drawn, strangers)
    return stays, strangers


def pairwise_cosines(array: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64 (n,): the cosine of each two rows, rounded so that equal vectors tie."""
    pieces = [slice(i, i + 4096) for i in range(0, len(one), 4096)]
    found = [np.einsum("nw,nw->n", nearest.normalize(array[one[piece]]), nearest.normalize(array[other[piece]])) for piece in pieces]
    return np.round(np.concatenate(found), nearest.DECIMALS) if found else np.zeros(0)


def weighted_aurocs(positive: np.ndarray, negative: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(draws,): P(positive > negative) + P(equal) / 2, each of n positives with its (n, m) negatives `weights` (draws, n) times."""
    _, group = np.unique(np.concatenate([positive, negative.ravel()]), return_inverse=True)
    above, below = group[: len(positive)], group[len(positive) :]
    found = []
    for weight in weights:
        beaten = np.bincount(below, weights=np.repeat(weight, negative.shape[1]), minlength=group.max() + 1)
        found.append((weight * (np.cumsum(beaten) - beaten / 2)[above]).sum() / (weight.sum() * beaten.sum()))
    return np.array(found)


def held_out_pairs(v: Vocabulary, unsaid) -> dict[str, np.ndarray]:
    """{kind: rows (n, 2)} of the held-out edges, each once whichever way it is written."""
    held = concept_vectors.held_out_mask(v.plain[v.source], v.plain[v.target]) & v.asked[v.source] & v.asked[v.target]
    pairs = np.sort(np.column_stack([v.source, v.target])[held], axis=1)
    if not len(pairs):
        print_line("no held-out edge joins two concepts of the index: there is no link prediction and no retrieval")
        return {}
    kinds = np.array(v.relationships, dtype=object)[v.relationship[held]]
    names = join_inverse_names(kinds, v.source[held], v.target[held])
    kinds = np.array([names[kind] for kind in kinds], dtype=object)
    everything = sample_rows(np.unique(pairs, axis=0), MAX_PAIRS)
    found = {"all": everything, "all, unsaid": everything[unsaid(everything)] if unsaid else everything[:0]}
    found |= {kind: sample_rows(np.unique(pairs[kinds == kind], axis=0), MAX_PAIRS) for kind in sorted(set(kinds))}
    return {kind: pairs for kind, pairs in found.items() if len(pairs) >= MIN_PAIRS or kind == "all"}


def read_texts(con, concept_ids: np.ndarray) -> dict[str, str]:
    """{concept: definition} of these plain concepts."""
    wanted = ibis.memtable(pa.table({"concept_id": concept_ids.astype(str)}))
    table = DEFINITIONS.read(con).semi_join(wanted, "concept_id").select("concept_id", "text").to_pyarrow()
    return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))


def make_unsaid_filter(text: dict[str, str], v: Vocabulary):
    """A function from pairs (n, 2) to bool (n,): neither end's definition names the other end."""

    def said(a, b) -> bool:
        return v.name[b].lower() in text.get(str(v.plain[a]), "").lower()

    return lambda pairs: np.array([not (said(a, b) or said(b, a)) for a, b in pairs], dtype=bool)


def link_rows(arm: str, array: np.ndarray, pairs: np.ndarray, stays: np.ndarray, strangers: np.ndarray, kind: str) -> list[dict]:
    whole = (strangers >= 0).all(axis=1)
    pairs, stays, strangers = pairs[whole], stays[whole], strangers[whole]
    if not len(pairs):
        return []
    positive = pairwise_cosines(array, pairs[:, 0], pairs[:, 1])
    negative = pairwise_cosines(array, np.repeat(stays, NEGATIVES), strangers.ravel()).reshape(-1, NEGATIVES)
    value = weighted_aurocs(positive, negative, np.ones((1, len(pairs))))[0]
    return [quality_row(arm, "link_auroc", kind, value, weighted_aurocs(positive, negative, bootstrap_weights(len(pairs))), len(pairs))]


# ---- retrieval ---------------------------------------------------------------------------------------------


def rank_candidates(array: np.ndarray, query: np.ndarray, truth: np.ndarray, candidates: np.ndarray, answers: dict[int, set[int]]) -> np.ndarray:
    """float64 (queries,): the rank of `truth` among `candidates`, 1 the best; equals share the mean of their ranks.

    The query itself and its other right answers do not compete.
    """
    own, asked = pairwise_cosines(array, query, truth), nearest.normalize(array[query])
    above, equal = np.zeros(len(query)), np.zeros(len(query))
    for first in range(0, len(candidates), 4096):
        some = candidates[first : first + 4096]
        found = np.round(asked @ nearest.normalize(array[some]).T, nearest.DECIMALS)  # (queries, candidates)
        for i, (q, t) in enumerate(zip(query.tolist(), truth.tolist(), strict=True)):
            found[i, np.isin(some, [q, t, *answers[q]])] = -np.inf
        above += (found > own[:, None]).sum(axis=1)
        equal += (found == own[:, None]).sum(axis=1)
    return 1 + above + equal / 2


def retrieval_rows(arm: str, array: np.ndarray, v: Vocabulary) -> list[dict]:
    rows = []
    for what, kinds in RETRIEVAL_RELATIONSHIPS.items():
        everything = np.unique(v.related(kinds), axis=0)
        edges = sample_rows(everything[concept_vectors.held_out_mask(v.plain[everything[:, 0]], v.plain[everything[:, 1]])], MAX_QUERIES)
        answers: dict[int, set[int]] = {}
        for a, b in everything[np.isin(everything[:, 0], edges[:, 0])].tolist():
            answers.setdefault(a, set()).add(b)
        found = np.zeros(len(edges))
        for kind in np.unique(v.kind[edges[:, 1]]):
            of_kind = v.kind[edges[:, 1]] == kind
            found[of_kind] = rank_candidates(array, *edges[of_kind].T, np.flatnonzero(v.asked & (v.kind == kind)), answers)
        rows += mean_row(arm, "retrieval_mrr", what, 1 / found) + mean_row(arm, f"retrieval_recall_at_{K}", what, (found <= K).astype(float))
    return rows


# ---- neighbourhoods and deciles ----------------------------------------------------------------------------


def neighbour_rows(arm: str, array: np.ndarray, v: Vocabulary) -> list[dict]:
    query = sample_rows(np.flatnonzero(v.asked), MAX_QUERIES)
    near, _ = nearest.search_exact(array, array[query], K + 1, among=v.asked)
    near = [n[n != q][:K] for n, q in zip(near, query, strict=True)]
    up = v.related(RETRIEVAL_RELATIONSHIPS["parent"])
    children = np.bincount(up[:, 1], minlength=len(v.plain))
    parents: dict[int, set[int]] = {}
    for child, parent in up[np.isin(up[:, 0], np.concatenate([query, *near]))].tolist():
        parents.setdefault(child, set()).add(parent)
    same = np.array([np.mean(v.domain[n] == v.domain[q]) for n, q in zip(near, query, strict=True)])
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
    one, other = np.triu_indices(10, 1)
    unit = nearest.normalize(vectors.reshape(-1, vectors.shape[-1])).reshape(vectors.shape)
    far = np.round(1 - np.einsum("mpw,mpw->mp", unit[:, one], unit[:, other]), nearest.DECIMALS)
    a, b = rankdata(other - one), rankdata(far, axis=1)
    a, b = a - a.mean(), b - b.mean(axis=1, keepdims=True)
    spread = np.sqrt((a**2).sum() * (b**2).sum(axis=1))
    return np.divide(b @ a, spread, out=np.zeros(len(b)), where=spread > 0)


def decile_rows(arm: str, array: np.ndarray, v: Vocabulary) -> list[dict]:
    of = np.flatnonzero(v.decile >= 0)
    of = of[np.lexsort((v.decile[of], v.plain[of]))]
    measurement, count = np.unique(v.plain[of], return_counts=True)
    rows = of[np.isin(v.plain[of], measurement[count == 10])].reshape(-1, 10)
    return mean_row(arm, "decile_order", "all", decile_orders(array[sample_rows(rows, MAX_QUERIES)])) if len(rows) else []


# ---- maps --------------------------------------------------------------------------------------------------


def draw_maps(arms: list[str], arrays: dict[str, np.ndarray], v: Vocabulary):
    """PCA and t-SNE of the same concepts, one panel an arm, coloured by domain."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = sample_rows(np.flatnonzero(v.asked), MAP_CONCEPTS)
    if len(rows) < MIN_PAIRS:  # scikit-learn's t-SNE of two points is a segmentation fault
        print_line(f"no maps are drawn of {len(rows)} concepts")
        return
    common = np.argsort(-np.bincount(v.domain[rows], minlength=len(v.domains)), kind="stable")[:MAP_COLOURS]
    colours = {domain: plt.get_cmap("tab10")(i) for i, domain in enumerate(common.tolist())}
    for method, reduce in {
        "pca": PCA(2, random_state=SEED),
        "tsne": TSNE(2, random_state=SEED, init="pca", perplexity=min(30, len(rows) / 4)),
    }.items():
        figure, panels = plt.subplots(1, len(arms), figsize=(4 * len(arms), 4.6), squeeze=False)
        for arm, panel in zip(arms, panels[0], strict=True):
            at = reduce.fit_transform(nearest.normalize(arrays[arm][rows]).astype(np.float32))
            for domain in [-1, *colours]:
                chosen = v.domain[rows] == domain if domain >= 0 else ~np.isin(v.domain[rows], common)
                if chosen.any():
                    panel.scatter(
                        *at[chosen].T,
                        s=3,
                        linewidths=0,
                        color=colours.get(domain, "lightgrey"),
                        label=(v.domains[domain] or "no domain") if domain >= 0 else "others",
                    )
            panel.set(title=arm, xticks=[], yticks=[])
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="lower center", ncols=MAP_COLOURS + 1, markerscale=4, frameon=False)
        with storage.atomic_write(contract.map_file(method)) as part:
            figure.savefig(part, format="png", dpi=120, metadata={"Software": None})
        plt.close(figure)
        print_line(f"{contract.display_path(contract.map_file(method))}: {len(rows):,} concepts")


# ---- the stage ---------------------------------------------------------------------------------------------


def warn_of_seen_edges(v: Vocabulary):
    """Say it if the graph's edges hold held-out ones, or if nobody can know."""
    if not contract.edges_file().exists():
        print_line("there is no edges.npy: vectors of others were made with all relationships, so that their links are not held out")
        return
    edges = np.load(contract.edges_file(), mmap_mode="r", allow_pickle=False)[:, : 2**20]
    if edges.max(initial=-1) < len(v.plain) and (seen := int(concept_vectors.held_out_mask(v.plain[edges[0]], v.plain[edges[1]]).sum())):
        print_line(
            f"{contract.display_path(contract.edges_file())} has {seen:,} held-out edges among its first {edges.shape[1]:,}: unless graph.py left them out, "
            "link prediction and retrieval flatter medrep"
        )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engine.add_arguments(parser)
    config.add_arguments(parser)
    concept_vectors.add_rep_argument(parser, "--own", none=False, default=[], nargs="+")
    parser.add_argument("--unless-published", action="store_true", help="do nothing where published files lie: run.sh would wait an hour for it")
    args = parser.parse_args(argv)

    if args.unless_published and concept_vectors.published_representations():
        return
    reps = {contract.rep_name(rep): rep for rep in dict.fromkeys([*concept_vectors.available_arms(), *args.own])}
    if not reps:
        raise UserError(
            f"{contract.display_path(contract.representation_folder())} has no concept_representation_*.npy; representation/run.sh writes them"
        )
    arms, ids = list(reps), concept_vectors.read_concept_index()
    arrays = {arm: concept_vectors.FiniteArray(concept_vectors.open_vectors(rep)[1], ids, rep) for arm, rep in reps.items()}
    stamp = Stamp(
        contract.quality_file(),
        inputs=[
            contract.concept_index_file(),
            *map(contract.concept_array_file, reps.values()),
            DEFINITIONS.at(),
            *omop.input_files("concepts", "concept", "concept_relationship"),
        ],
    )
    if stamp.is_current():
        return
    with timed_stage("evaluate") as figures, table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)
        concept_vectors.check_index(ids)
        terminology.check_relationship_ends(con)
        v = read_vocabulary(ids, con)
        warn_of_seen_edges(v)
        unsaid = (lambda pairs: make_unsaid_filter(read_texts(con, v.plain[np.unique(pairs)]), v)(pairs)) if DEFINITIONS.at().exists() else None
        links = {kind: (pairs, *draw_negatives(v, pairs)) for kind, pairs in held_out_pairs(v, unsaid).items()}
        rows = []
        sample = sample_rows(np.flatnonzero(v.asked), WHITENING_ROWS)
        spaces = {"as_read": {arm: RescaledVectors(array, sample) for arm, array in arrays.items()}, "raw": arrays}
        for space, arm in progress_bar([(space, arm) for space in spaces for arm in arms], "evaluate", unit="arms"):
            array = spaces[space][arm]
            found = [r for kind, drawn_for in links.items() for r in link_rows(arm, array, *drawn_for, kind)]
            found += retrieval_rows(arm, array, v) + neighbour_rows(arm, array, v) + decile_rows(arm, array, v)
            rows += [{"space": space, **r} for r in found]
        table = pd.DataFrame(rows, columns=["space", *COLUMNS])
        draw_maps(arms, spaces["as_read"], v)
        with storage.atomic_write(contract.quality_file()) as part:
            table.to_csv(part, index=False)
        main_rows = table[(table.measure != "link_auroc") | table.kind.isin(["all", "all, unsaid"])]
        print_line(main_rows.pivot(index=["space", "measure", "kind", "n"], columns="arm", values="value")[arms].to_string())
        print_line(f"{contract.display_path(contract.quality_file())}: {len(table):,} rows, with intervals and every relationship")
        overall = main_rows[(main_rows.measure == "link_auroc") & (main_rows.kind == "all") & (main_rows.space == "as_read")]
        figures.update({f"link_auroc_{r.arm}": r.value for r in overall.itertuples()})
        stamp.record()


if __name__ == "__main__":
    main()
