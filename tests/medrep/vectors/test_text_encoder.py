"""The pass for reading gives what transformers' own gives."""

import pytest
import torch

from medrep.vectors import hub, text_encoder


def small_model(**more):
    transformers = hub.quiet_transformers()
    torch.manual_seed(0)
    shape = {"position_biased_input": False, "type_vocab_size": 0, "pos_att_type": ["c2p", "p2c"]} | more
    model = transformers.DebertaModel(
        transformers.DebertaConfig(
            vocab_size=50,
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=20,
            relative_attention=True,
            pad_token_id=0,
            **shape,
        )
    ).eval()
    for weights in model.parameters():  # what starts as zeros or ones must count, too
        weights.data += 0.3 * torch.randn_like(weights)
    return model


@pytest.mark.parametrize("lengths", [[9, 9, 9], [20, 3, 11], [1], [2, 1]])
@pytest.mark.parametrize("more", [{}, {"position_biased_input": True, "type_vocab_size": 2, "pos_att_type": ["p2c", "c2p"]}])
@torch.inference_mode()
def test_the_last_layer_is_that_of_transformers(lengths, more):
    model = small_model(**more)
    tokens, real = torch.zeros(len(lengths), max(lengths), dtype=torch.long), torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, n in enumerate(lengths):
        tokens[row, :n], real[row, :n] = torch.randint(1, 50, (n,)), 1
    assert text_encoder.has_fast_forward(model, max(lengths))
    theirs = model(input_ids=tokens, attention_mask=real).last_hidden_state
    assert torch.allclose(text_encoder.deberta_forward(model, tokens, real)[real == 1], theirs[real == 1], atol=2e-5)


def test_other_models_and_longer_texts_are_left_to_transformers():
    transformers = hub.quiet_transformers()
    assert not text_encoder.has_fast_forward(small_model(), 21) and not text_encoder.has_fast_forward(small_model(pos_att_type=["c2p"]), 5)
    shape = transformers.BertConfig(vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    assert not text_encoder.has_fast_forward(transformers.BertModel(shape), 5)
