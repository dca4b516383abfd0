"""Give each concept tokens of a codebook, from its text and its place in the graph, and the vector they compose: MedTok.

    cd codes
    python representation/medtok.py

Reads   usedata/representation/concept_representation_description.npy, edges.npy
Writes  usedata/representation/concept_representation_medtok.npy, float32 (concepts, width)
        medtok_tokens.npy, int32 (concepts, 4, K), medtok_weights.npy, float32 (concepts, 4, K), and
        medtok_codebook.npy, float32 (codes, width / 4): `compose` makes the vectors of these three
        medtok_log.jsonl: each epoch's losses, and how much of the codebook it used

    text ------------ text-specific ------------ K nearest of codebook[:T] ------------ \\
        \\------------ shared, as text sees it -- of codebook[T + G:] -- \\               \\
                                                                        > agree          > their weighted sums, end to end
        /------------ shared, as graph sees it - of codebook[T + G:] -- /               /
    neighbours, GCN - graph-specific ----------- of codebook[T : T + G] --------------- /

MedTok: Su et al., ICML 2025, arXiv 2502.04397; with 30,000 codes 192 wide a baseline of arXiv 2504.08329. From there: the
four parts and three regions; several nearest codes a part, weighted by a softmax of the squared distances between unit
vectors; commitment; a contrast that makes the two shared parts agree; a contrast of each specific part with itself under
noise, given the other side's shared part, and a penalty on what it has in common with its own side's.

The encoders cannot collapse: in every contrast the batch's other concepts are the negatives, so a part that is the same for
all concepts, or one code that all choose, has the loss of a blind guess.

What is not as published, and why:
- Text vectors and graph are the other arms', so that arms differ in nothing but how they combine them.
- A side is one vector here, not a sequence of words or nodes. Attention to one vector only adds it; then either shared
  part would see both sides, and they could agree without looking for what the sides share. Each sees its own side.
- Each column of the text vectors is standardized. Most of a text encoder's vector is what all texts have in common; it would
  be most of every part, too, and crowd them together: on the concepts of the MIMIC-IV demo the graph-specific codes had a
  perplexity of 196 of 512 without and 436 with it.
- Codes are moving averages of the vectors that chose them, begin as k-means and are replaced when no vector chooses them.
  By gradients a code that is never near moves never, and most of 30,000 would stay unused.
- Training ends when the loss on held-out seeds in fixed views no longer falls, not after a number of epochs.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch_geometric.data import Data
from vector_quantize_pytorch import VectorQuantize

from medrep import config, contract, storage
from medrep.cdm import engine
from medrep.devices import add_device_argument, requested_devices, torch_device
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.settings import MedTokConfig
from medrep.stamps import Stamp
from medrep.vectors import concept_vectors, graphs, markers, published

PARTS = ("text", "graph", "shared_text", "shared_graph")  # in this order in the vectors and the tokens
REGIONS = {"text": [0], "graph": [1], "shared": [2, 3]}  # in this order in the codebook; whose codes each region has
LOSSES = ("commitment", "agreement", "specific", "separation")
MAX_MEASURED_ROWS = 100_000  # vectors at most, or nearly, that mean and spread are taken from
DEAD_CODE_SHARE = 0.1  # a code chosen less often than this share of the mean is replaced
INIT_VECTORS_PER_CODE = 1  # vectors for each code, at least, that k-means begins from; with 10,000 codes a region it takes 3.7 GiB, measured
ROWS_AT_ONCE = 2**12  # of the final vectors: similarities to 10,000 codes are 164 MB


# ---- the network -------------------------------------------------------------------------------------------


class Tokenizer(nn.Module):
    """Encoders, heads of the four parts, and the three regions' codes, for text vectors x (nodes, width)."""

    def __init__(self, x: torch.Tensor, settings: MedTokConfig):
        super().__init__()
        nodes, width = x.shape
        some = x[:: max(1, nodes // MAX_MEASURED_ROWS)]
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("mean", some.mean(dim=0))
        self.register_buffer("scale", some.std(dim=0, correction=0).clamp(min=1e-6))
        # without the text vector added: the text has parts of its own, and these are to tell what the neighbours say
        self.encoder = graphs.GraphEncoder(width, settings.hidden_size, skip=False)
        self.heads = nn.ModuleList(nn.Linear(width, width // len(PARTS)) for _ in PARTS)
        self.codes_per_part = settings.codes_per_part

        def book(region: str) -> VectorQuantize:
            codes = getattr(settings, f"{region}_codes")
            chosen = len(REGIONS[region]) * min(settings.batch_size, nodes) / codes  # how often a code is, in a step, on average
            return VectorQuantize(
                width // len(PARTS),
                codes,
                use_cosine_sim=True,
                kmeans_init=True,
                decay=settings.decay,
                threshold_ema_dead_code=DEAD_CODE_SHARE * chosen,
            )

        self.books = nn.ModuleDict({region: book(region) for region in REGIONS})

    def standardize(self, batch: Data) -> Data:
        batch["x"] = (batch["x"] - self.mean) / self.scale
        return batch

    def embed_parts(self, text: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        """(rows, 4, width / 4), unit vectors, of text and graph vectors (rows, width)."""
        return functional.normalize(torch.stack([head(side) for head, side in zip(self.heads, [text, graph, text, graph], strict=True)], 1), dim=2)

    def embed_seeds(self, batch: Data, drop_edges: float = 0.0, drop_features: float = 0.0, random: torch.Generator | None = None):
        """(seeds, 4, width / 4), with some edges and columns dropped."""
        x, weights = graphs.augmented_view(batch, drop_edges, drop_features, random)
        return self.embed_parts(x[: batch.batch_size], self.encoder(x, weights, *graphs.count_inner_and_seed_nodes(batch)))

    def regions(self) -> Iterator[tuple[str, VectorQuantize]]:
        """Each region and its codes, in the order of the codebook."""
        for region, book in self.books.items():
            assert isinstance(book, VectorQuantize)
            yield region, book

    def codebook(self) -> torch.Tensor:
        """(codes, width / 4): the regions one after the other. A copy: the codes change in place."""
        return torch.cat([book.codebook for _, book in self.regions()])

    @torch.no_grad()
    def assign_tokens(self, parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest codes of each part's region, the nearest first, and their weights: (rows, 4, K) both."""
        tokens, weights, first = {}, {}, 0
        for region, book in self.regions():
            for part in REGIONS[region]:
                cosine, code = (parts[:, part] @ book.codebook.T).topk(self.codes_per_part)
                tokens[part], weights[part] = first + code, functional.softmax(2 * cosine, dim=1)  # squared distance: 2 - 2 cosine
            first += book.codebook_size
        return torch.stack([tokens[part] for part in range(len(PARTS))], 1), torch.stack([weights[part] for part in range(len(PARTS))], 1)

    @torch.no_grad()
    def update_codebook(self, parts: torch.Tensor):
        """Move the codes towards the parts (rows, 4, width / 4) that are nearest to them; the first time, k-means."""
        for region, book in self.regions():
            book(parts[None, :, REGIONS[region]].flatten(1, 2))


def compose_vectors(tokens: torch.Tensor, weights: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """(rows, 4, width / 4) of tokens and weights (rows, 4, K): the quantized parts; end to end they are the vectors."""
    return (weights[..., None] * codebook[tokens]).sum(dim=2)


# ---- the losses --------------------------------------------------------------------------------------------


def contrastive_loss(left: torch.Tensor, right: torch.Tensor, temperature: float) -> torch.Tensor:
    """The mean over rows of -log softmax of the cosine with the same row of `right`, against all its rows."""
    cosine = functional.normalize(left, dim=1) @ functional.normalize(right, dim=1).T
    return functional.cross_entropy(cosine / temperature, torch.arange(len(left), device=left.device))


def compute_losses(parts: torch.Tensor, quantized: torch.Tensor, noised: torch.Tensor, settings: MedTokConfig) -> dict[str, torch.Tensor]:
    """Each loss, weighted, of the parts (rows, 4, width / 4), the same quantized, and those of the noised view quantized.

    separation is the Frobenius norm of a sum over rows, as in the published code: it grows with the batch.
    """
    text, graph, shared_text, shared_graph = quantized.unbind(1)
    found = {
        "commitment": settings.commitment * (parts - quantized.detach()).square().sum(dim=(1, 2)).mean(),
        "agreement": contrastive_loss(shared_text, shared_graph, settings.temperature)
        + contrastive_loss(shared_graph, shared_text, settings.temperature),
    }
    found["specific"] = found["separation"] = torch.zeros((), device=parts.device)
    for part, own, others in ((0, shared_text, shared_graph), (1, shared_graph, shared_text)):
        left, right = (torch.cat([q[:, part], others.detach()], dim=1) for q in (quantized, noised))
        found["specific"] = found["specific"] + contrastive_loss(left, right, settings.temperature)
        found["separation"] = found["separation"] + settings.separation * torch.linalg.matrix_norm(quantized[:, part].T @ own)
    return found


def forward_batch(model: Tokenizer, batch: Data, settings: MedTokConfig, random: torch.Generator):
    """The seeds' parts, tokens, and losses; the other nodes, whose neighbours were not all sampled, have none."""

    def view(drop_edges, drop_features):
        parts = model.embed_seeds(batch, drop_edges, drop_features, random)
        tokens, weights = model.assign_tokens(parts)
        # straight through: what is quantized hands its gradient to what was to be quantized
        return parts, tokens, parts + (compose_vectors(tokens, weights, codebook) - parts).detach()

    codebook = model.codebook()
    parts, tokens, quantized = view(0.0, 0.0)
    _, _, noised = view(settings.drop_edges, settings.drop_features)
    return parts, tokens, compute_losses(parts, quantized, noised, settings)


# ---- the use of the codebook -------------------------------------------------------------------------------


def count_nearest(tokens: torch.Tensor, codes: int) -> np.ndarray:
    """int64 (codes,): how many parts have each code as their nearest, of tokens (rows, 4, K)."""
    return torch.bincount(tokens[:, :, 0].flatten(), minlength=codes).cpu().numpy()


def perplexity(counts: np.ndarray) -> float:
    """exp of the entropy: how many codes, equally used, would be as various."""
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def codebook_usage(model: Tokenizer, counts: np.ndarray) -> dict[str, float]:
    """By region: the share of codes that are the nearest of some part, and the perplexity of the nearest codes."""
    found, first = {}, 0
    for region, book in model.regions():
        own = counts[first : first + book.codebook_size]
        found |= {f"use_{region}": float((own > 0).mean()), f"perplexity_{region}": perplexity(own)}
        first += book.codebook_size
    return found


# ---- training ----------------------------------------------------------------------------------------------


@torch.no_grad()
def start_codes(model: Tokenizer, loader, device: torch.device):
    """k-means of the untrained parts of some seeds; a batch alone would be fewer than the codes."""
    most_codes, nodes = max(book.codebook_size for _, book in model.regions()), len(loader.dataset)
    if nodes < most_codes:
        print_line(f"medtok: a region of {most_codes:,} codes is more than there are concepts to learn them from ({nodes:,}): many will stay unused")
    wanted, found = INIT_VECTORS_PER_CODE * most_codes, []
    for batch in loader:
        found.append(model.embed_seeds(model.standardize(batch.to(device))))
        if sum(map(len, found)) >= wanted:
            break
    model.update_codebook(torch.cat(found))


def fit(data: Data, settings: MedTokConfig, device: torch.device, checkpoint: graphs.Checkpoint | None = None) -> tuple[Tokenizer, list[dict]]:
    """The weights and codes of the best epoch, and each epoch's figures. `data` has x, edge_index and full_degree."""
    torch.manual_seed(settings.seed)
    train, valid = graphs.make_loaders(data, settings)
    model = Tokenizer(data["x"], settings).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    random = torch.Generator().manual_seed(settings.seed)

    def run(loader, random, step: bool) -> tuple[dict[str, float], np.ndarray]:
        model.train(step)
        total, seeds, counts = {}, 0, np.zeros(len(model.codebook()), dtype=np.int64)
        for batch in loader:
            parts, tokens, found = forward_batch(model, model.standardize(batch.to(device)), settings, random)
            if step:
                optimizer.zero_grad()
                sum(found.values(), torch.zeros((), device=device)).backward()
                optimizer.step()
                model.update_codebook(parts.detach())
            total = {name: total.get(name, 0.0) + loss.item() * batch.batch_size for name, loss in found.items()}
            seeds += batch.batch_size
            counts = counts + count_nearest(tokens, len(model.codebook()))
        return {name: loss / seeds for name, loss in total.items()}, counts

    def run_epoch() -> dict[str, float]:
        found, counts = run(train, random, step=True)
        with graphs.fixed_validation_rng(settings.seed) as same:
            held_found, _ = run(valid, same, step=False)
        return {**found, "held_out": sum(held_found.values()), **codebook_usage(model, counts)}

    def format_figures(figures: dict) -> str:
        return f"loss {sum(figures[name] for name in LOSSES):.3f}, held out {figures['held_out']:.4f}, codes used " + ", ".join(
            f"{figures[f'use_{region}']:.0%} {region}" for region in REGIONS
        )

    start_codes(model, train, device)
    epochs = graphs.train("medtok", model, optimizer, settings, random, run_epoch, format_figures, checkpoint)
    return model.eval(), epochs


# ---- final vectors -----------------------------------------------------------------------------------------


def standardized(text: np.ndarray, model: Tokenizer, file) -> np.ndarray:
    """`text` as the tokenizer reads it, in `file`: millions of vectors do not fit the memory."""
    storage.reserve_disk(file, text.nbytes)
    out, mean, scale = np.memmap(file, dtype=np.float32, mode="r+", shape=text.shape), model.mean.cpu().numpy(), model.scale.cpu().numpy()
    for first in range(0, len(text), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        out[rows] = (text[rows] - mean) / scale
    return out


@torch.inference_mode()
def quantize(model: Tokenizer, text: np.ndarray, vectors: np.ndarray, tokens: np.ndarray, weights: np.ndarray, device: torch.device) -> np.ndarray:
    """Fill tokens and weights, and put the composed vectors in the place of the graph vectors in `vectors`; how often each code is nearest."""
    model = model.to(device)
    codebook = model.codebook()
    counts = np.zeros(len(codebook), dtype=np.int64)
    for first in range(0, len(text), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        token, weight = model.assign_tokens(model.embed_parts(*(torch.from_numpy(np.array(side[rows])).to(device) for side in (text, vectors))))
        counts = counts + count_nearest(token, len(codebook))
        tokens[rows], weights[rows] = token.cpu().numpy(), weight.cpu().numpy()
        vectors[rows] = compose_vectors(token, weight, codebook).flatten(1).cpu().numpy()
    return counts


def check_settings(width: int, settings: MedTokConfig):
    """Every mistake at once."""
    wrong = [
        f"medtok.{region}_codes is {codes}: it must be as many as medtok.codes_per_part ({settings.codes_per_part}) or more"
        for region in REGIONS
        if (codes := getattr(settings, f"{region}_codes")) < settings.codes_per_part
    ]
    if settings.codes_per_part < 1:
        wrong.append(f"medtok.codes_per_part is {settings.codes_per_part}: it must be 1 or more")
    if width % len(PARTS):
        wrong.append(
            f"the text vectors are {width} wide, which does not divide into the {len(PARTS)} parts of a MedTok vector: "
            "use an encoder of another hidden_size"
        )
    if wrong:
        raise UserError("; ".join(wrong))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device_argument(parser)
    engine.add_arguments(parser)  # run.sh gives every stage the same flags
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    settings = config.load("medtok", args.overrides)
    devices = requested_devices(args)
    if published.published_representations():
        return
    output, beside = contract.concept_array_file("medtok"), contract.medtok_files()
    _, text = concept_vectors.open_vectors("description")
    edges = graphs.open_edges(len(text))
    check_settings(text.shape[1], settings)
    inputs = [contract.concept_array_file("description"), contract.edges_file()]
    stamp = Stamp(output, inputs=inputs, settings=settings, beside=list(beside.values()))
    if stamp.is_current():
        return
    with timed_stage("medtok") as figures:
        concept_vectors.check_complete("description")
        device = torch_device(devices)
        checkpoint = graphs.Checkpoint(output, stamp.content)
        model, epochs = fit(graphs.open_graph(contract.concept_array_file("description")), settings, device, checkpoint)
        best = min(epochs, key=lambda e: e["held_out"])
        codes, codes_of = len(model.codebook()), {region: book.codebook_size for region, book in model.regions()}
        print_line(
            f"{len(epochs)} of at most {settings.epochs} epochs; best {best['epoch']}: "
            + ", ".join(f"{name} {best[name]:.3f}" for name in (*LOSSES, "held_out"))
        )
        storage.remove_path(storage.stamp_path(output))  # killed between two of the files, they are all made again
        with ExitStack() as files:
            part = files.enter_context(markers.write_marked(output))
            parts = {name: files.enter_context(storage.atomic_write(path)) for name, path in beside.items()}
            shape = (len(text), len(PARTS), settings.codes_per_part)
            vectors = storage.create_array(part, text.shape)
            tokens = storage.create_array(parts["tokens"], shape, np.int32)
            weights = storage.create_array(parts["weights"], shape)
            standard = standardized(text, model, files.enter_context(tempfile.TemporaryFile(dir=part.parent)))
            graphs.embed_nodes(model.encoder, standard, edges, vectors, scratch=part.parent)
            use = codebook_usage(model, quantize(model, standard, vectors, tokens, weights, device))
            for array in (vectors, tokens, weights):
                array.flush()
            with open(parts["codebook"], "wb") as file:
                np.save(file, model.codebook().cpu().numpy())
            parts["log"].write_text("".join(json.dumps(line) + "\n" for line in epochs))
        figures.update(
            rows=len(text),
            edges=edges.shape[1],
            epochs=len(epochs),
            best_epoch=best["epoch"],
            held_out=round(best["held_out"], 4),
            **{name: round(value, 4) for name, value in use.items()},
        )
        print_line(
            "of all concepts' nearest codes: "
            + "; ".join(
                f"{region}: {use[f'use_{region}']:.1%} of {codes_of[region]:,} used, perplexity {use[f'perplexity_{region}']:,.0f}"
                for region in REGIONS
            )
        )
        print_line(f"{contract.display_path(output)}: {len(text):,} vectors of width {text.shape[1]}, of {codes:,} codes")
        stamp.record()
        checkpoint.end()


if __name__ == "__main__":
    main()
