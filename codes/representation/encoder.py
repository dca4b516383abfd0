"""Train the text encoder on the definitions: masked-language-model training, continued or from nothing.

    cd codes
    python representation/encoder.py                         # microsoft/deberta-base, downloaded once
    python representation/encoder.py --encoder FOLDER        # a Hugging Face model that lies in FOLDER

Reads   usedata/representation/definitions, and the model that encoder.model or --encoder names
Writes  usedata/representation/encoder (a Hugging Face folder)

`encoder.model: none` trains a small DeBERTa and its tokenizer from nothing, without a download.
"""
import argparse
import os
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medrep import concepts, config, contract, engine, texts
from medrep.config import Encoder
from medrep.contract import Made
from medrep.errors import UserError
from medrep.progress import bar, say, stage

WARMUP_SHARE = 0.06  # of the steps, as DeBERTa's authors finetune
FROM_NOTHING = "none"
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")


# ---- the model to start from -------------------------------------------------------------------------------


def new_model(definitions: list[str], settings: Encoder):
    """A small DeBERTa with random weights, and a tokenizer of the definitions' words."""
    transformers = texts.quiet_transformers()
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    # Bytes as in DeBERTa's own; a WordPiece trainer numbers its pieces in a different order each time.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(definitions, trainers.BpeTrainer(
        vocab_size=settings.vocab_size, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=settings.max_length,
        **{f"{t.strip('[]').lower()}_token": t for t in SPECIAL})
    torch.manual_seed(settings.seed)
    # as microsoft/deberta-base, but small: positions are relative only
    shape = transformers.DebertaConfig(
        vocab_size=len(tokenizer), hidden_size=settings.hidden_size, num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads, intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.max_length, relative_attention=True, position_biased_input=False,
        pos_att_type=["c2p", "p2c"], pad_token_id=tokenizer.pad_token_id, legacy=False,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # a small model trained briefly does not overfit
    return transformers.DebertaForMaskedLM(shape), tokenizer


def hub_answers() -> bool:
    """Whether the hub can be reached: asked once, because transformers asks for a minute before it gives up."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True  # an answer, if not a friendly one
    except OSError:
        return False
    return True


def open_model(name: str):
    """The model and tokenizer of a folder or a Hugging Face id."""
    transformers = texts.quiet_transformers()
    remedy = (f"where there is a network, run `hf download {name if not Path(name).is_dir() else 'microsoft/deberta-base'} "
              "--local-dir FOLDER`, bring FOLDER here and give --encoder FOLDER")
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise UserError(f"the encoder's folder {name} is not there: {remedy}")
    here = {"local_files_only": Path(name).is_dir() or not hub_answers()}  # what was downloaded before is found without the hub
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **here)
        shape = transformers.AutoConfig.from_pretrained(name, **here)
        # The legacy head of DeBERTa in transformers does not take up the published head's weights.
        extra = {"legacy": False} if shape.model_type in ("deberta", "deberta-v2") else {}
        model = transformers.AutoModelForMaskedLM.from_pretrained(name, dtype=torch.float32, **extra, **here)
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0].rstrip(".")
        raise UserError(f"the encoder {name} cannot be had ({reason}): {remedy}") from None
    if None in (tokenizer.mask_token_id, tokenizer.pad_token_id):
        raise UserError(f"the encoder {name} has no mask or padding token: encoder.model must be a masked language model, "
                        "such as microsoft/deberta-base")
    return model, tokenizer


# ---- training ----------------------------------------------------------------------------------------------


def mask(tokens: np.ndarray, real: np.ndarray, tokenizer, share: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The tokens with `share` of the words masked, and labels: the true token there, -100 elsewhere.

    Of the masked 80 % become the mask token, 10 % another token, 10 % stay (BERT's rule); special tokens never are.
    """
    special = np.isin(tokens, tokenizer.all_special_ids) | (real == 0)
    chosen = (random.random(tokens.shape) < share) & ~special
    fate = random.random(tokens.shape)
    masked = np.where(chosen & (fate < 0.8), tokenizer.mask_token_id, tokens)
    other = chosen & (fate >= 0.8) & (fate < 0.9)
    masked[other] = random.integers(0, len(tokenizer), int(other.sum()))
    return masked, np.where(chosen, tokens, -100)


def masked_logits(model, batch: dict, places: torch.Tensor) -> torch.Tensor:
    """(masked, vocabulary): logits at the masked places. At all of them they would fill the memory."""
    if hasattr(model, "lm_predictions"):  # DeBERTa
        hidden = model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return model.lm_predictions(hidden[places], model.get_input_embeddings())
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[places]


def train(model, tokenizer, definitions: list[str], settings: Encoder, scratch: Path) -> list[dict]:
    """Train `model` in place; gives loss and masked accuracy of each epoch."""
    transformers = texts.quiet_transformers()
    numbers = texts.tokenize(tokenizer, sorted(set(definitions)), settings.max_length)
    batches = texts.length_batches(np.array([len(n) for n in numbers]), settings.batch_tokens)
    random = np.random.default_rng(settings.seed)
    epochs: list[dict] = []
    seen = {"loss": 0.0, "right": 0, "masked": 0}

    def collate(items):
        # an item is already a whole batch, so that the Trainer shuffles batches and each keeps texts of like length
        tokens, real = texts.pad([numbers[i] for item in items for i in item], tokenizer.pad_token_id)
        masked, labels = mask(tokens, real, tokenizer, settings.mask_share, random)
        return {name: torch.from_numpy(value) for name, value in
                {"input_ids": masked, "attention_mask": real, "labels": labels}.items()}

    class MaskedTrainer(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            places = inputs["labels"] != -100
            truth = inputs["labels"][places]
            logits = masked_logits(model, inputs, places).float()
            # a sum over max(1, masked): a batch without any masked token gives 0, not NaN
            loss = torch.nn.functional.cross_entropy(logits, truth, reduction="sum") / max(1, len(truth))
            seen["loss"] += float(loss.detach()) * len(truth)
            seen["right"] += int((logits.argmax(-1) == truth).sum())
            seen["masked"] += len(truth)
            return loss

    class Report(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.line = bar(what="encoder", total=state.max_steps, unit="steps")

        def on_step_end(self, args, state, control, **kwargs):
            self.line.update()

        def on_epoch_end(self, args, state, control, **kwargs):
            of = max(1, seen["masked"])
            epochs.append({"loss": round(seen["loss"] / of, 4), "masked_accuracy": round(seen["right"] / of, 4)})
            seen.update(loss=0.0, right=0, masked=0)
            say(f"epoch {len(epochs)} of {settings.epochs}: loss {epochs[-1]['loss']:.3f}, masked accuracy {epochs[-1]['masked_accuracy']:.3f}")

        def on_train_end(self, args, state, control, **kwargs):
            self.line.close()

    arguments = transformers.TrainingArguments(
        output_dir=str(scratch), num_train_epochs=settings.epochs, per_device_train_batch_size=1, learning_rate=settings.learning_rate,
        warmup_steps=int(WARMUP_SHARE * settings.epochs * len(batches)), weight_decay=0.01, lr_scheduler_type="linear", seed=settings.seed,
        save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=False,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs in one process would cut our packed items apart
    trainer = MaskedTrainer(model=model, args=arguments, train_dataset=batches, data_collator=collate, callbacks=[Report()])
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return epochs


def check_width(width: int, name: str, overrides: list[str]):
    wanted = config.load_experiment("behrt", overrides).model.hidden_size
    if width != wanted:
        raise UserError(f"encoder {name} is {width} wide, but model.hidden_size of configs/models/behrt.yaml is {wanted}: make them equal")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", metavar="PATH", help="a Hugging Face folder or id to start from, in place of encoder.model")
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    settings = config.load("encoder", args.overrides)
    if args.encoder:
        settings = replace(settings, model=args.encoder)
    if settings.pooling not in ("cls", "mean"):
        raise UserError(f"encoder.pooling is {settings.pooling!r}: it must be cls or mean")
    if concepts.published():
        return
    contract.DEFINITIONS.require()
    folder = [Path(settings.model)] if Path(settings.model).is_dir() else []
    made = Made(contract.encoder_folder(), inputs=[contract.DEFINITIONS.at(), *folder], settings=settings)
    if made.is_current():
        return
    with stage("encoder") as figures:
        definitions = texts.read_definitions(concepts.read_index(), engine.connect(args.engine, args.memory, args.threads))
        if settings.model == FROM_NOTHING:
            check_width(settings.hidden_size, "encoder.hidden_size", args.overrides)
            model, tokenizer = new_model(definitions, settings)
        else:
            model, tokenizer = open_model(settings.model)
            check_width(model.config.hidden_size, settings.model, args.overrides)
        distinct = len(set(definitions))
        say(f"encoder {settings.model}: {sum(p.numel() for p in model.parameters()):,} weights, {distinct:,} distinct definitions")
        with contract.unfinished(contract.encoder_folder()) as part:
            epochs = train(model, tokenizer, definitions, settings, part)
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
        figures.update(texts=distinct, epochs=len(epochs), **(epochs[-1] if epochs else {}))
        say(f"{contract.show(contract.encoder_folder())}: a Hugging Face folder")
        made.record()


if __name__ == "__main__":
    main()
