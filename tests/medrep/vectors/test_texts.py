"""Texts in chunks, tokens, batches."""

import ibis
import pytest

from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.vectors import texts


@pytest.fixture
def small_chunks(root, monkeypatch):
    monkeypatch.setattr(texts, "CHUNK_ROWS", 4)


def lay_out(rows):
    table = ibis.memtable(rows, schema=ibis.schema({"row": "int64", "text": "string"}))
    return texts.write_distinct_texts(connect(), table, lambda lost: UserError(f"lost {lost}"))


def test_each_text_lies_once_in_order_of_length_with_its_rows(small_chunks):
    words = ["b", "aaa", "a", "cc", "é", "bb", "aaa", "b", "dddd", "cc", "b", "Zz"]
    found = lay_out(list(enumerate(words)))
    chunks = [found.read_chunk(i) for i in range(found.n_chunks)]
    assert [chunk["text"].to_pylist() for chunk in chunks] == [["a", "b", "é", "Zz"], ["bb", "cc", "aaa", "dddd"]] == list(found)
    assert [chunk["rows"].to_pylist() for chunk in chunks] == [[[2], [0, 7, 10], [4], [11]], [[5], [3, 9], [1, 6], [8]]]
    assert (found.n_rows, found.n_texts) == (12, 8) and (found.count_texts([1]), found.count_texts([])) == (4, 0)


def test_the_order_of_the_rows_changes_no_chunk(root, monkeypatch):
    monkeypatch.setattr(texts, "CHUNK_ROWS", 5000)
    words = [f"{i % 70_000:x}" * (i % 3 + 1) for i in range(250_000)]  # more than a row group of the engine's
    rows = list(enumerate(words))
    first, again = lay_out(rows), lay_out(rows[::-1])
    assert [text for chunk in first for text in chunk] == sorted(set(words), key=lambda word: (len(word), word))
    assert all(first.read_chunk(chunk).equals(again.read_chunk(chunk)) for chunk in range(first.n_chunks)) and first.n_chunks == again.n_chunks > 10


def test_rows_without_a_text_are_named(small_chunks):
    with pytest.raises(UserError, match=r"lost \[1, 3\]"):
        lay_out([(0, "a"), (1, None), (2, "b"), (3, None)])
