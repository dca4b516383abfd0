"""All ancestors, and a vocabulary read through them, against plain searches in a dictionary."""

import numpy as np
import pytest

from medrep.patients.input_mapping import make_input_mapping
from medrep.vocabulary import ancestors
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, UNK, Vocabulary


def make(*tokens):
    counts = (0,) * len(SPECIAL_TOKENS) + (5,) * len(tokens)
    return Vocabulary(SPECIAL_TOKENS + tokens, counts, counts)


@pytest.fixture(params=["a row for all", "a row for half", "no table"])
def above(request, seed, vocabulary_tables, levels_above):
    """{concept: levels above} of 39 concepts, written to data/concepts with CONCEPT_ANCESTOR as the parameter says."""
    random = np.random.default_rng(seed)
    is_a = sorted({(int(a), int(b)) for a, b in random.integers(1, 40, (45, 2)) if a != b})  # cycles happen, too
    above = {c: levels_above(c, is_a) for c in range(1, 40)}
    rows = [(a, c, i + 1) for c in above for i, level in enumerate(above[c]) for a in level] + [(c, c, 0) for c in above]
    vocabulary_tables(is_a, {"a row for all": rows, "a row for half": [row for row in rows if row[1] % 2], "no table": None}[request.param])
    return above


@pytest.mark.parametrize("seed", range(3))
def test_all_ancestors_are_those_of_a_plain_search_the_nearest_first(above, seed):
    found = ancestors.all_ancestors([str(c) for c in range(1, 40)] + ["no concept"])
    for concept, levels in above.items():
        assert found.get(str(concept), []) == [str(a) for level in levels for a in sorted(level)]
    assert ancestors.all_ancestors([]) == {}


def plain_translation(token, above, known):
    """(what stands for `token`, how), by the rule's words one after the other."""
    if token in known:
        return token, "own"
    concept, _, decile = token.partition("_")
    if concept in known:
        return concept, "plain"
    for level in above[int(concept)]:
        for a in sorted(level):
            if decile and f"{a}_{decile}" in known:
                return f"{a}_{decile}", "ancestor"
            if str(a) in known:
                return str(a), "ancestor"
    return "[UNK]", "none"


@pytest.mark.parametrize("seed", range(4))
def test_an_unknown_token_becomes_what_a_plain_search_finds(above, capsys, seed):
    random = np.random.default_rng(seed)
    every = [str(c) for c in range(1, 40)] + [f"{c}_{d}" for c in range(1, 40) for d in (0, 9)]
    known = make(*(token for token in every if random.random() < (0.1 if "_" in token else 0.2)))
    external = make(*(every[i] for i in random.permutation(len(every))))
    translation, how = ancestors.map_tokens_by_ancestors(external, known)
    assert translation.dtype == np.int64 and translation[: len(SPECIAL_TOKENS)].tolist() == list(range(len(SPECIAL_TOKENS)))
    for token, number, kind in list(zip(external.tokens, translation, how, strict=True))[len(SPECIAL_TOKENS) :]:
        assert (known.tokens[number], kind) == plain_translation(token, above, known.tokens)
    assert set(how) == set(ancestors.VECTOR_SOURCES)
    said = capsys.readouterr().out
    own = sum(token in known.number for token in every)
    assert f"{len(every)} tokens read by the {len(known) - 7} that the model knows: {own} own, " in said and " ancestor" in said


def test_an_ancestors_decile_goes_before_the_ancestor_and_a_nearer_ancestor_before_both(vocabulary_tables):
    vocabulary_tables([], [(20, 1, 1), (30, 1, 2), (25, 1, 1)])
    for known, wanted in (
        (["30_4", "25", "20"], "20"),
        (["20", "20_4"], "20_4"),
        (["30_4", "25"], "25"),
        (["30_4", "30"], "30_4"),
        (["30_5"], "[UNK]"),
    ):
        home = make(*known)
        assert home.tokens[ancestors.map_tokens_by_ancestors(make("1_4"), home)[0][7]] == wanted


def test_a_model_without_vectors_reads_unknown_codes_as_it_is_told(vocabulary_tables):
    vocabulary_tables([(1, 20)])
    home, external = make("20", "3"), make("1", "3", "4")
    assert make_input_mapping(external, "none", home).token_map[7:].tolist() == [UNK, 8, UNK]
    assert make_input_mapping(external, "none", home, oov="ancestor").token_map[7:].tolist() == [7, 8, UNK]


def test_concepts_are_needed_only_where_a_code_is_unknown(root):
    home = make("1", "20")
    assert ancestors.map_tokens_by_ancestors(make("20", "20_4"), home)[0][7:].tolist() == [8, 8]
    with pytest.raises(SystemExit, match="data/concepts is missing: put CONCEPT.csv"):
        ancestors.map_tokens_by_ancestors(make("5"), home)
