"""Texts encoded as description.py does beside the common way: texts per second, in one run on the CPU.

    cd codes
    python benchmarks/text.py                                # template-like definitions, about four minutes on two cores
    python benchmarks/text.py --median 90 --longest 300      # as a language model writes them
    python benchmarks/text.py --encoder minilm               # the encoder that came with set-up, on texts as long as names and as definitions
    python benchmarks/text.py --memory 250000 1000000        # peak memory of description.py itself at so many concepts

The model has microsoft/deberta-base's shape (768 wide, 12 layers, vocabulary 50,265) and random weights. Lengths are
lognormal; the defaults are those of the template's 119,089 different definitions of a public vocabulary of 52,902 concepts
(median 33 tokens, sigma 0.54, longest 287). The common way takes texts in the order of the file, 16 at a time, each filled
up to the longest of ALL (--of) texts, computes the masked-language-model head and keeps all hidden states. No text
is there twice, so nothing is gained by encoding equal texts once. Both give the same vectors, which is checked.

With --encoder the weights are the encoder's own, texts are words of its tokenizer, and ours stands beside two: `plain` takes texts in their order,
16 at a time, each filled up to the longest of its batch, and `sentence_transformers` is that library's encode. Beside ours in fp32 stand
`bf16` (encoder.precision) and `int8` (torch's dynamic quantization of the linear layers): for each its rate by ours, and the mean and least
cosine with ours. int8 is here to be measured, not to be used: representation/README.md says why.
"""

import argparse
import copy
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import duckdb
import numpy as np
import torch

from medrep import contract, storage
from medrep.progress import print_line
from medrep.settings import EncoderConfig
from medrep.tables import DEFINITIONS
from medrep.vectors import hub, markers, sentence_encoder, text_encoder

BATCH_SIZE, VOCABULARY_SIZE = 16, 50265
SPECIAL_TOKENS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def peak_gib(process: int | str = "self") -> float:
    # not ru_maxrss: that remembers the process which started this one
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    if found is None:
        raise ProcessLookupError(f"process {process} has ended")
    return round(int(found[1]) / 2**20, 3)


def make_tokenizer():
    """A word a token: `w17` is number 17."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {token: i for i, token in enumerate(SPECIAL_TOKENS)} | {f"w{i}": i for i in range(len(SPECIAL_TOKENS), VOCABULARY_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return hub.quiet_transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, **{f"{t.strip('[]').lower()}_token": t for t in SPECIAL_TOKENS}
    )


def make_model():
    transformers = hub.quiet_transformers()
    torch.manual_seed(0)
    return transformers.DebertaForMaskedLM(
        transformers.DebertaConfig(
            vocab_size=VOCABULARY_SIZE,
            max_position_embeddings=512,
            relative_attention=True,
            position_biased_input=False,
            type_vocab_size=0,
            pos_att_type=["c2p", "p2c"],
            pad_token_id=0,
            layer_norm_eps=1e-7,
            legacy=False,
        )
    ).eval()


def draw_lengths(count: int, median: float, sigma: float, longest: int, random) -> np.ndarray:
    """Tokens of each text, the first and last one included."""
    return np.exp(random.normal(np.log(median), sigma, count)).clip(4, longest).astype(int)


def draw_texts(lengths: np.ndarray, random) -> list[str]:
    return [" ".join(f"w{i}" for i in random.integers(len(SPECIAL_TOKENS), VOCABULARY_SIZE, n - 2)) for n in lengths]


@torch.no_grad()
def encode_baseline(model, tokenizer, batch: list[str], longest: int) -> np.ndarray:
    """The mean over the last layer's tokens, as scripts commonly get it: (texts, width)."""
    inputs = tokenizer(batch, padding="max_length", max_length=longest, truncation=True, return_tensors="pt", return_token_type_ids=False)
    inputs = inputs.to(model.device)
    out = model(**inputs, output_hidden_states=True)
    real = inputs["attention_mask"][..., None]
    return ((out.hidden_states[-1].float() * real).sum(1) / real.sum(1)).cpu().numpy()


def compare(args):
    random = np.random.default_rng(0)
    lengths = draw_lengths(args.of, args.median, args.sigma, args.longest, random)
    sample = lengths[random.permutation(args.of)[: args.texts]]
    many = draw_texts(sample, random)
    print_line(
        f"{args.of:,} texts, lognormal: median {np.median(lengths):.0f} tokens, longest {lengths.max()}; {len(many)} of them, drawn by chance, "
        f"are encoded: mean {sample.mean():.1f}, longest {sample.max()}; {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} before"
    )
    tokenizer, model = make_tokenizer(), make_model()
    ours = {
        precision: text_encoder.pooled_encoder(copy.deepcopy(model.base_model).to(dtype), tokenizer, "mean", 512)
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    for reader in ours.values():  # warm, and before the common way takes its memory
        text_encoder.encode_texts(reader, many, text_encoder.CPU_BATCH_TOKENS)
    peak = peak_gib()
    seconds, vectors = {"fp32": [], "bf16": [], "common": []}, {}
    common = []
    for start in range(0, len(many), BATCH_SIZE):  # in turns, so that all meet the same load of the machine
        for precision, reader in ours.items():
            begin = time.perf_counter()
            vectors[precision], _ = text_encoder.encode_texts(reader, many, text_encoder.CPU_BATCH_TOKENS)
            seconds[precision].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        common.append(encode_baseline(model, tokenizer, many[start : start + BATCH_SIZE], int(lengths.max())))
        seconds["common"].append(time.perf_counter() - begin)
    common = np.concatenate(common)
    assert np.abs(vectors["fp32"] - common).max() < 1e-4 * np.abs(common).max(), np.abs(vectors["fp32"] - common).max()
    cosine = (vectors["bf16"] * common).sum(1) / np.linalg.norm(vectors["bf16"], axis=1) / np.linalg.norm(common, axis=1)
    assert cosine.min() > 0.999, cosine.min()
    rate = {"common": len(many) / sum(seconds["common"])} | {name: len(many) / np.mean(seconds[name]) for name in ours}
    print_line(
        f"the common way {rate['common']:.2f} texts a second, ours {rate['fp32']:.2f} in fp32 and {rate['bf16']:.2f} in bf16 "
        f"(cosine with the common way's at least {cosine.min():.5f}); load {os.getloadavg()[0]:.1f} after"
    )
    print(
        json.dumps(
            {
                "ratio": round(rate["fp32"] / rate["common"], 2),
                "bf16_ratio": round(rate["bf16"] / rate["common"], 2),
                "texts_per_second": round(rate["fp32"], 2),
                "peak_gib": peak,
            }
        )
    )


def compare_encoder(args):
    """As compare, with the pretrained encoder `args.encoder` in place of random weights, and beside ours in fp32 what is less precise."""
    from sentence_transformers import SentenceTransformer

    folder = sentence_encoder.locate(args.encoder)
    readers, theirs = open_readers(folder), SentenceTransformer(folder, device="cpu")
    ours, random = readers["ours"], np.random.default_rng(0)
    words = sorted(word for word in ours.tokenizer.get_vocab() if word.isalpha())
    for kind, median in (("names", 10), ("definitions", int(args.median))):
        lengths = draw_lengths(args.texts, median, args.sigma, min(args.longest, ours.max_length), random)
        many = [" ".join(random.choice(words, n - 2)) for n in lengths]
        ways = {name: functools.partial(encode_ours, reader, many) for name, reader in readers.items()} | {
            "plain": lambda many=many: np.concatenate([encode_plain(ours, many[i : i + BATCH_SIZE]) for i in range(0, len(many), BATCH_SIZE)]),
            "sentence_transformers": lambda many=many: theirs.encode(many, show_progress_bar=False),
        }
        rate, cosines = time_ways(ways, args.repeats)
        cosine = min(float(cosines[name].min()) for name in ("plain", "sentence_transformers"))
        assert cosine > 0.999, cosine
        print(
            json.dumps(
                {
                    "texts": kind,
                    "ratio": round(rate["ours"] / rate["plain"], 2),
                    "ratio_to_sentence_transformers": round(rate["ours"] / rate["sentence_transformers"], 2),
                    "texts_per_second": round(rate["ours"], 1),
                    "least_cosine": round(cosine, 7),
                }
            ),
            flush=True,
        )
        for name in readers.keys() - {"ours"}:
            figures = {"ratio_to_fp32": rate[name] / rate["ours"], "mean_cosine": cosines[name].mean(), "least_cosine": cosines[name].min()}
            print(json.dumps({"texts": kind, "way": name} | {key: round(float(value), 5) for key, value in figures.items()}), flush=True)


def time_ways(ways: dict, repeats: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Texts a second of each way, the best of `repeats`, and each text's cosine with the vector of the way `ours`."""
    seconds, unit = {name: [] for name in ways}, {}
    for _ in range(repeats + 1):  # in turns; the first is to warm up
        for name, way in ways.items():
            begin = time.perf_counter()
            found = way()
            seconds[name].append(time.perf_counter() - begin)
            unit[name] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return {name: len(unit[name]) / min(own[1:]) for name, own in seconds.items()}, {
        name: (unit["ours"] * own).sum(axis=1) for name, own in unit.items()
    }


def encode_ours(reader: text_encoder.TextEncoder, many: list[str]) -> np.ndarray:
    return text_encoder.encode_texts(reader, many, text_encoder.CPU_BATCH_TOKENS)[0]


def open_readers(folder: str) -> dict[str, text_encoder.TextEncoder]:
    """The encoder as description.py opens it, in fp32 (`ours`) and in bf16, and in int8 as it does not."""
    ours, half, whole = (text_encoder.open_text_encoder(folder, EncoderConfig()) for _ in range(3))
    from torch.ao.quantization import qconfig

    with warnings.catch_warnings(action="ignore"):  # deprecated; torchao, which is to replace it, is slower than fp32 here
        whole.model = torch.ao.quantization.quantize_dynamic(whole.model, {torch.nn.Linear: qconfig.per_channel_dynamic_qconfig})
    readers = {"ours": ours, "bf16": half.to(torch.device("cpu"), torch.bfloat16), "int8": whole}
    return readers


@torch.inference_mode()
def encode_plain(encoder: text_encoder.TextEncoder, batch: list[str]) -> np.ndarray:
    """(texts, width): the mean over each text's tokens, of unit length."""
    inputs = encoder.tokenizer(batch, padding=True, truncation=True, max_length=encoder.max_length, return_tensors="pt")
    real = inputs["attention_mask"][..., None]
    found = (encoder.model(**inputs).last_hidden_state * real).sum(1) / real.sum(1)
    return torch.nn.functional.normalize(found).numpy()


# ---- memory ------------------------------------------------------------------------------------------------


def make_texts(count: int):
    """An index of `count` concepts and their definitions, a twentieth the same as another."""
    folder = storage.make_folder(DEFINITIONS.at())
    words = "['acute', 'chronic', 'heart', 'kidney', 'oral', 'serum', 'tablet', 'level']"
    same = "(i - (i % 20 = 0)::int)"
    more = f"list_aggregate([' ' || {words}[(1 + hash({same}, j) % 8)::bigint] FOR j IN range((hash({same}) % 30)::bigint)], 'string_agg', '')"
    con = duckdb.connect()
    con.execute(f"""COPY (SELECT i::text AS concept_id, concat('concept ', {same}, {more}, '.') AS text, 'template' AS writer,
        '' AS model, '' AS key FROM range(1, {count} + 1) t(i)) TO '{folder}/0.parquet'""")
    with markers.write_marked(contract.concept_index_file()) as part:
        con.execute(f"COPY (SELECT i AS concept_id FROM range(1, {count} + 1) t(i)) TO '{part}' (FORMAT csv, HEADER)")


def peak_memory_of_script(root: str, script: str, *flags: str) -> float:
    """GiB at most of a stage's process, asked of the kernel ten times a second."""
    process = subprocess.Popen(
        [sys.executable, f"representation/{script}", "--gpu-devices", "cpu", *flags],
        cwd=contract.REPOSITORY / "codes",
        env=os.environ | {"MEDREP_ROOT": root},
    )
    peak = 0.0
    while process.poll() is None:
        try:
            peak = max(peak, peak_gib(process.pid))
        except OSError:
            pass  # it has just ended
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{script} failed")
    return peak


def measure_memory(counts: list[int], memory: str):
    sizes = [
        "encoder.model=none",
        "encoder.training=masked",
        "encoder.hidden_size=16",
        "model.hidden_size=16",
        "encoder.num_layers=1",
        "encoder.num_heads=2",
        "encoder.intermediate_size=16",
        "encoder.vocab_size=1000",
        "encoder.epochs=0",
    ]
    flags = ["--memory", memory, *(word for size in sizes for word in ("--set", size))]
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="medrep_text_") as root:
            contract.ROOT = Path(root)
            make_texts(1000)
            peak_memory_of_script(root, "encoder.py", *flags)
            make_texts(count)
            begin = time.perf_counter()
            peak = peak_memory_of_script(root, "description.py", *flags)
            print(json.dumps({"concepts": count, "peak_gib": peak, "seconds": round(time.perf_counter() - begin, 1)}), flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--of", type=int, default=100_000)
    parser.add_argument("--median", type=float, default=33)
    parser.add_argument("--sigma", type=float, default=0.54)
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--encoder", help="minilm, or a folder of a sentence encoder that takes the mean over tokens")
    parser.add_argument("--repeats", type=int, default=3, help="with --encoder: how often each way is timed, the best counts")
    parser.add_argument("--memory", type=int, nargs="+", metavar="CONCEPTS")
    parser.add_argument("--engine-memory", default="1GB", help="with --memory: what the engine that sorts the texts may hold")
    args = parser.parse_args(argv)
    if args.memory:
        measure_memory(args.memory, args.engine_memory)
    elif args.encoder:
        compare_encoder(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
