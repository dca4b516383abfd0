"""Encode every definition: the text (graph-free) representation.

    cd codes
    python representation/description.py
    python representation/description.py --text name      # the control arm: what the bare name says

Reads   usedata/representation/concept_idx.csv, definitions, encoder; for names data/concepts (CONCEPT) in place of definitions
Writes  usedata/representation/concept_representation_description.npy (or _name.npy), float32 (concepts, width)

A concept's vector is the last layer's [CLS] of its definition, or the mean over its tokens (encoder.pooling).
"""
import argparse

import numpy as np
import torch

from medrep import concepts, config, contract, engine, omop, texts
from medrep.contract import Made
from medrep.errors import UserError
from medrep.progress import bar, say, stage


@torch.inference_mode()
def encode(model, tokenizer, definitions: list[str], pooling: str, max_length: int, batch_tokens: int, out: np.ndarray):
    """Fill `out` (texts, width) with the vector of each definition; equal texts are encoded once."""
    distinct, place = np.unique(np.array(definitions, dtype=object), return_inverse=True)
    numbers = texts.tokenize(tokenizer, distinct.tolist(), max_length)
    rows = np.argsort(place, kind="stable")  # rows of out, grouped by text
    bounds = np.searchsorted(place[rows], np.arange(len(distinct) + 1))
    model.eval()
    line = bar(what="description", total=len(distinct), unit="texts")
    for batch in texts.length_batches(np.array([len(n) for n in numbers]), batch_tokens):
        tokens, real = (torch.from_numpy(a).to(model.device) for a in texts.pad([numbers[i] for i in batch], tokenizer.pad_token_id))
        hidden = model(input_ids=tokens, attention_mask=real).last_hidden_state.float()  # (texts, tokens, width)
        if pooling == "cls":
            vectors = hidden[:, 0]
        else:
            vectors = (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        for text, vector in zip(batch, vectors.cpu().numpy(), strict=True):
            out[rows[bounds[text] : bounds[text + 1]]] = vector
        line.update(len(batch))
    line.close()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="definition", choices=["definition", "name"])
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    settings = config.load("encoder", args.overrides)
    if settings.pooling not in ("cls", "mean"):
        raise UserError(f"encoder.pooling is {settings.pooling!r}: it must be cls or mean")
    if concepts.published():
        return
    if not contract.encoder_folder().exists():
        raise UserError(f"{contract.show(contract.encoder_folder())} is missing; representation/encoder.py writes it")
    arm = "name" if args.text == "name" else "description"
    output = contract.concept_array_file(arm)
    sources = omop.files("concepts", "concept") if arm == "name" else [contract.DEFINITIONS.require()]
    made = Made(output, inputs=[contract.concept_index_file(), *sources, contract.encoder_folder()],
                settings={"pooling": settings.pooling, "max_length": settings.max_length})
    if made.is_current():
        return
    with stage(arm) as figures:
        ids = concepts.read_index()
        con = engine.connect(args.engine, args.memory, args.threads)
        definitions = texts.read_names(ids, con) if arm == "name" else texts.read_definitions(ids, con)
        transformers = texts.quiet_transformers()
        tokenizer = transformers.AutoTokenizer.from_pretrained(contract.encoder_folder())
        model = transformers.AutoModel.from_pretrained(contract.encoder_folder(), dtype=torch.float32)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        with concepts.ours(output) as part:
            out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=(len(ids), model.config.hidden_size))
            encode(model, tokenizer, definitions, settings.pooling, settings.max_length, settings.batch_tokens, out)
            out.flush()
        figures.update(rows=len(ids), texts=len(set(definitions)), width=model.config.hidden_size, pooling=settings.pooling)
        say(f"{contract.show(output)}: {len(ids):,} vectors of width {model.config.hidden_size}, {settings.pooling} of the last layer")
        made.record()


if __name__ == "__main__":
    main()
