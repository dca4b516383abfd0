"""Maps of concepts by their vectors, drawn for the eye: PCA and t-SNE."""

from collections.abc import Mapping

import matplotlib
import numpy as np

from medrep import contract, storage
from medrep.progress import print_line
from medrep.vectors import concept_pairs, nearest
from medrep.vectors.concept_pairs import ConceptGraph
from medrep.vectors.nearest import Rows

MAP_CONCEPTS, MAP_COLOURS = 1_000, 8  # concepts on a map; domains with a colour of their own


def plot_projections(arms: list[str], arrays: Mapping[str, Rows], graph: ConceptGraph):
    """PCA and t-SNE of the same concepts, one panel an arm, coloured by domain."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = concept_pairs.sample_rows(np.flatnonzero(graph.eligible), MAP_CONCEPTS)
    if len(rows) < concept_pairs.MIN_PAIRS:  # scikit-learn's t-SNE of two points is a segmentation fault
        print_line(f"no maps are drawn of {len(rows)} concepts")
        return
    common = np.argsort(-np.bincount(graph.domain[rows], minlength=len(graph.domains)), kind="stable")[:MAP_COLOURS]
    colours = {domain: plt.get_cmap("tab10")(i) for i, domain in enumerate(common.tolist())}
    for method, reduce in {
        "pca": PCA(2, random_state=concept_pairs.SEED),
        "tsne": TSNE(2, random_state=concept_pairs.SEED, init="pca", perplexity=min(30, len(rows) / 4)),
    }.items():
        figure, panels = plt.subplots(1, len(arms), figsize=(4 * len(arms), 4.6), squeeze=False)
        for arm, panel in zip(arms, panels[0], strict=True):
            at = reduce.fit_transform(nearest.normalize(arrays[arm][rows]).astype(np.float32))
            for domain in [-1, *colours]:
                chosen = graph.domain[rows] == domain if domain >= 0 else ~np.isin(graph.domain[rows], common)
                if chosen.any():
                    panel.scatter(
                        *at[chosen].T,
                        s=3,
                        linewidths=0,
                        color=colours.get(domain, "lightgrey"),
                        label=(graph.domains[domain] or "no domain") if domain >= 0 else "others",
                    )
            panel.set(title=arm, xticks=[], yticks=[])
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="lower center", ncols=MAP_COLOURS + 1, markerscale=4, frameon=False)
        with storage.atomic_write(contract.map_file(method)) as part:
            figure.savefig(part, format="png", dpi=120, metadata={"Software": None})
        plt.close(figure)
        print_line(f"{contract.display_path(contract.map_file(method))}: {len(rows):,} concepts")
