"""Draw a random unit vector for every concept: the arm that knows nothing, beside which the others show what they know.

    cd codes
    python representation/random_vectors.py

Reads   usedata/representation/concept_idx.csv (published or ours)
Writes  usedata/representation/concept_representation_random.npy, float32 (concepts, width)

A concept's vector depends on its id and SEED only, not on what else the index holds or on its order: hospitals with
different indexes can be compared, and a model reads another hospital's random vectors as it reads its own.
"""

import argparse

import numpy as np
from scipy.special import ndtri

from medrep import config, contract, storage
from medrep.cdm import engine
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.stamps import Stamp
from medrep.vectors import concept_index, markers, published
from medrep.vocabulary import holdout

SEED = 0
ROWS_AT_ONCE = 2**15


def draw_vectors(plain: np.ndarray, decile: np.ndarray, width: int, seed: int = SEED) -> np.ndarray:
    """float32 (concepts, width), each row uniform on the sphere: normal numbers by SplitMix64 from the concept's key."""
    key = holdout.hash_integers((plain * 11 + decile + 1).view(np.uint64) + holdout.hash_integers(np.array([seed])))
    numbers = holdout.hash_integers(key[:, None] + holdout.GOLDEN_RATIO_64 * np.arange(1, width + 1, dtype=np.uint64))
    normal = ndtri(((numbers >> np.uint64(11)) + 0.5) * 2.0**-53)
    return (normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(np.float32)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engine.add_arguments(parser)  # run.sh gives every stage the same flags
    config.add_arguments(parser)
    parser.add_argument("--unless-published", action="store_true", help="do nothing where published files lie: beside them it writes another 22 GB")
    args = parser.parse_args(argv)

    width = config.load_experiment("behrt", args.overrides).model.hidden_size
    output = contract.concept_array_file("random")
    if published.published_representations() and args.unless_published:  # half a set is refused in any case
        return
    ids = concept_index.read_concept_index()
    stamp = Stamp(output, inputs=[contract.concept_index_file()], settings={"seed": SEED, "width": width})
    if stamp.is_current() and markers.has_marker(output) and markers.matches_index(output):
        return
    with timed_stage("random") as figures:
        plain, decile = concept_index.split_deciles(ids)
        with markers.write_marked(output) as part:
            out = storage.create_array(part, (len(ids), width))
            for first in progress_bar(range(0, len(ids), ROWS_AT_ONCE), "random", unit="pieces"):
                rows = slice(first, first + ROWS_AT_ONCE)
                out[rows] = draw_vectors(plain[rows], decile[rows], width)
            out.flush()
        figures.update(rows=len(ids), width=width)
        print_line(f"{contract.display_path(output)}: {len(ids):,} random unit vectors of width {width}")
        stamp.record()


if __name__ == "__main__":
    main()
