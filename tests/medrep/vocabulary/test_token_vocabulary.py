"""Numbers of tokens from one vocabulary to another."""

from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, UNK, Vocabulary


def make(*tokens, seen=()):
    none = (0,) * len(SPECIAL_TOKENS)
    return Vocabulary(SPECIAL_TOKENS + tokens, none + (5,) * len(tokens), none + tuple(int(t in seen) for t in tokens))


def test_an_unknown_token_becomes_unk_and_special_tokens_stay():
    home, other = make("1", "2", "3_4"), make("3_4", "9", "1")
    assert other.translation_to(home).tolist() == [*range(7), 9, UNK, 7]


def test_only_tokens_of_train_and_valid_persons_are_known():
    assert make("1", "2", "3", seen=("1", "3")).seen_in_pretraining().tokens[7:] == ("1", "3")


def test_without_deciles_a_measurement_is_one_concept_with_the_sum_of_its_counts():
    words = make("1", "3", "3_0", "3_9", "4_2", seen=("1", "3_9", "4_2"))
    plain = words.without_deciles()
    assert plain.tokens == (*SPECIAL_TOKENS, "1", "3", "4")
    assert plain.counts[7:] == (5, 15, 5) and plain.pretraining_counts[7:] == (1, 1, 1)
    assert words.values.tolist() == [0] * 7 + [0, 0, 1, 10, 3]
    assert plain.without_deciles() == plain
