"""concept_idx.csv."""

import pyarrow as pa

from medrep.vectors import concept_index


def test_plain_and_decile_agree_with_plain_python():
    ids = ["3", "3_0", "3_9", "2000000001", "0", "44_5"]
    plain, decile = concept_index.split_deciles(pa.array(ids))
    slow = [(int(i.split("_")[0]), int(i.split("_")[1]) if "_" in i else -1) for i in ids]
    assert list(zip(plain.tolist(), decile.tolist(), strict=True)) == slow
    assert concept_index.split_deciles(pa.array([], pa.string()))[0].shape == (0,)
