"""Texts a second of two text encoders, and a step of the graph encoder."""

import importlib.util
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import text as text_bench
from benchmarks.device import Setup
from benchmarks.device_parts.timing import seconds_of
from medrep import config, contract
from medrep.vectors import hub, text_encoder, tokenization


def texts(setup: Setup):
    transformers, random = hub.quiet_transformers(), np.random.default_rng(0)
    lengths = text_bench.draw_lengths(16 if setup.tiny else 20_000, 33, 0.54, 512, random)  # as many as a chunk has
    many, tokenizer = text_bench.draw_texts(lengths, random), text_bench.make_tokenizer()
    tokenizing = seconds_of(setup, lambda: tokenization.tokenize(tokenizer, many, 512))
    setup.report(figure="tokenizing", texts=len(many), tokens=int(lengths.sum()), longest=int(lengths.max()), seconds=tokenizing)

    def minilm():  # sentence-transformers/all-MiniLM-L6-v2
        torch.manual_seed(0)
        shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=text_bench.VOCABULARY_SIZE, **shape)).eval()

    for name, make in ({"minilm": minilm} | ({} if setup.tiny else {"deberta-base": text_bench.make_model})).items():  # that one has one size
        with setup.report_errors(figure=name):
            time_encoder(setup, name, make(), tokenizer, many, int(lengths.max()))


def time_encoder(setup: Setup, name: str, model, tokenizer, many: list[str], longest: int):
    """Texts a second in bf16, of some in fp32, and of some in the common way; vectors beside those in fp32 on the CPU."""
    budget = config.load("encoder").batch_tokens

    def encode(some, batch_tokens=budget):
        return text_encoder.encode_texts(text_encoder.pooled_encoder(model.base_model, tokenizer, "mean", 512), some, batch_tokens)[0]

    few = many[: 4 if setup.tiny else 64]
    true = encode(few, text_encoder.CPU_BATCH_TOKENS)
    model.to(setup.torch_device)
    for precision, dtype, some in (("fp32", torch.float32, many[: len(many) // 4]), ("bf16", torch.bfloat16, many)):
        with setup.report_errors(figure=name, precision=precision):
            model.to(dtype)
            found = encode(few)
            cosine = float(((found * true).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(true, axis=1)).min())
            first, then = encoding_seconds(setup, lambda some=some: encode(some))
            figures = {"texts_per_second": len(some) / then, "seconds": then, "first_seconds": first, "peak_gib": setup.peak_gib()}
            setup.report(figure=name, precision=precision, texts=len(some), **figures, worst_cosine=cosine, right=cosine > 0.999)
    with setup.report_errors(figure=f"{name}, the common way"):
        some = many[: 8 if setup.tiny else 512]
        batches = [some[i : i + text_bench.BATCH_SIZE] for i in range(0, len(some), text_bench.BATCH_SIZE)]
        _, then = encoding_seconds(setup, lambda: [text_bench.encode_baseline(model, tokenizer, batch, longest) for batch in batches])
        setup.report(figure=f"{name}, the common way", precision="bf16", texts=len(some), padded_to=longest, texts_per_second=len(some) / then)


def encoding_seconds(setup: Setup, encode) -> list[float]:
    """Of the first time, when kernels are chosen for each new shape, and of the second."""
    setup.clear()
    return [seconds_of(setup, encode) for _ in range(2)]


def graph(setup: Setup):
    missing = [name for name in ("torch_sparse", "torch_geometric") if importlib.util.find_spec(name) is None]
    if missing:
        setup.report(skipped=f"{', '.join(missing)} missing")
        return
    from benchmarks import graph as bench  # these three need torch_sparse
    from medrep.vectors import graphs
    from representation.graph import Grace

    nodes, width = (300, 8) if setup.tiny else (100_000, 768)
    with setup.report_errors(nodes=nodes), tempfile.TemporaryDirectory(prefix="benchmark_device_") as root:
        contract.ROOT = Path(root)
        bench.make_graph(nodes, width)
        settings, random = config.load("graph"), torch.Generator().manual_seed(0)
        data = graphs.open_graph(contract.concept_array_file("description"))
        batches = iter(graphs.make_loader(data, settings.neighbors, min(settings.batch_size, nodes // 4), torch.arange(nodes), shuffle=True))
        model = Grace(width, settings.hidden_size, settings.skip).to(setup.torch_device)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        sampling, step = [], []
        for _ in range(3 if setup.tiny else 10):
            start = time.perf_counter()
            batch = next(batches)
            sampling.append(time.perf_counter() - start)
            step.append(seconds_of(setup, lambda batch=batch: bench.train_step(model, optimizer, batch.to(setup.torch_device), settings, random)))
        setup.report(
            nodes=nodes,
            sampled=batch.num_nodes,
            sampling_seconds=statistics.median(sampling[1:]),
            step_seconds=statistics.median(step[1:]),
            peak_gib=setup.peak_gib(),
        )
