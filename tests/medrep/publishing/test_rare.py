"""Counting who has what, beside a plain second count, one event at a time."""

import numpy as np
import torch

from medrep.patients import behrt, behrt_config, sequences
from medrep.publishing import rare
from medrep.settings import ModelConfig
from medrep.vocabulary import token_vocabulary

SPECIAL = len(token_vocabulary.SPECIAL_TOKENS)
SMALL = dict(hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, max_rank=6, max_length=16)


def test_persons_of_tokens_are_those_of_a_plain_count(small_hospital):
    words = small_hospital("mimic", persons=25, tokens=[f"{1000 + i // 3}_{i % 3}" for i in range(30)])
    trajectories, rows = sequences.Trajectories("mimic"), np.arange(3, 20)
    for apart in (False, True):
        tokens = list((words.without_deciles() if apart else words).tokens)[:-2]  # two that the model does not know
        found = rare.count_token_persons(trajectories, rows, rare.model_numbers(words, tokens, apart), len(tokens))
        for number, token in list(enumerate(tokens))[SPECIAL:]:
            who = set()
            for row in rows:
                for event in range(trajectories.person_start[row], trajectories.person_stop[row]):
                    name = words.tokens[trajectories.token[event]]
                    if (name.partition("_")[0] if apart else name) == token:
                        who.add(row)
            assert found[number] == len(who)


def test_persons_of_ages_and_ranks_are_those_that_batches_read(small_hospital):
    small_hospital("mimic", persons=25)
    trajectories, rows = sequences.Trajectories("mimic"), np.arange(4, 25)
    config = behrt_config.make_config(ModelConfig(**SMALL, max_age=70), SPECIAL + 40, False)  # older ones are read as 70
    found = rare.count_table_persons(trajectories, rows, config, 16)
    assert set(found) == {"age", "visit_rank", "record_rank"}
    for name, counts in found.items():
        who = {number: set() for number in range(len(counts))}
        for window in trajectories.windows(rows, 16):
            batch = trajectories.pack(window[None])
            for number in batch[name].clip(0, len(counts) - 1):
                who[number].add(int(window[0]))
        assert counts.tolist() == [len(persons) for persons in who.values()]


def test_a_rare_row_becomes_the_nearest_that_enough_have():
    config = behrt_config.make_config(ModelConfig(**SMALL, max_age=6), SPECIAL + 4, False)
    model = behrt.BehrtForPrediction(config)
    before = model.encoder.embeddings.age.weight.detach().clone()
    assert rare.level_rare_rows(model, {"age": np.array([0, 3, 11, 2, 0, 20, 1])}, 11) == {"age": 4}
    after = model.encoder.embeddings.age.weight
    for row, source in enumerate([0, 2, 2, 2, 5, 5, 5]):  # 0: nobody is that old, and a sequence without events reads it
        assert torch.equal(after[row], before[source])


def test_tokens_that_stay_are_read_and_named_as_before():
    torch.manual_seed(0)
    sizes = ModelConfig(**SMALL, added=["age"], values_apart=True)
    model = behrt.BehrtForPretraining(behrt_config.make_config(sizes, SPECIAL + 6, False, objectives=["masked", "next"])).eval()
    model.set_frequencies([0] * SPECIAL + [5, 6, 7, 8, 9, 10])
    batch = {
        "token": torch.tensor([3, 5, SPECIAL + 1, SPECIAL + 4]),
        "value": torch.tensor([0, 0, 3, 0]),
        "age": torch.tensor([50, 50, 49, 50]),
        "boundaries": torch.tensor([0, 4]),
    }
    kept = np.array([*range(SPECIAL), SPECIAL + 1, SPECIAL + 2, SPECIAL + 4])
    with torch.inference_mode():
        before = model(**batch, places=torch.tensor([2, 3])).masked
        rare.keep_tokens(model, kept)
        batch["token"] = torch.tensor([3, 5, SPECIAL, SPECIAL + 2])
        after = model(**batch, places=torch.tensor([2, 3])).masked
    torch.testing.assert_close(after, before[:, torch.from_numpy(kept)])
    assert model.config.vocab_size == len(kept) and model.encoder.config.concept_count == 3
    assert len(model.log_frequency) == len(kept) and not model.log_frequency.any()  # how often each occurs is not told
