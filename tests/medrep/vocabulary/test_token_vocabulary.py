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
