"""The graph encoder at the size of all OMOP: seconds and memory of a training step and of the final vectors, and how both grow.

    cd codes
    python benchmarks/graph.py --nodes 100000 1000000 7500000

Makes a synthetic graph of each size (7 edges a node, hubs with up to a seventh of all nodes) with vectors of --width on the
disk, and on it, in a process of its own, trains for --steps steps with the paper's settings (1,024 seeds, up to 30 and 20
neighbours) and computes the final vectors of up to --rows rows by exact inference. The vectors are not in memory at first.
`anonymous` is what a process holds; `file` are pages of the vectors' file, which the system takes back when it needs them.

The same of graph.objective=links, the default (benchmark_links): the directions of the text, learning, all final vectors.

`ratio` is the common way's seconds a step over ours, on one graph of --small nodes with the same seeds, the repetitions in
turn: it samples three hops for two layers and has a loss over every sampled node. On a small graph that is nearly all nodes,
and its similarities still fit the memory; on a large one they do not. What is made lies in a folder of its own (--folder:
where; 3 KB a node) and goes at the end.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path

from medrep import storage

CODES = Path(__file__).resolve().parents[1]
DISTINCT_ROWS = 2**14  # rows that are drawn; the vectors repeat them, because only times are asked for
NUM_HUBS = 5  # a partner is node rows * u^NUM_HUBS of a random order: the largest hub is in (1 / rows)^(1 / NUM_HUBS) of all pairs


# ---- the synthetic graph -----------------------------------------------------------------------------------


def make_graph(nodes: int, width: int):
    """edges.npy and concept_representation_description.npy below MEDREP_ROOT."""
    import numpy as np

    from medrep import contract
    from representation import edges

    random, code = np.random.default_rng(0), edges.EdgeKeys(nodes, kinds=2)
    order, codes = random.permutation(nodes), []
    for first in range(0, nodes, 2**20):
        left = np.repeat(np.arange(first, min(first + 2**20, nodes)), random.integers(1, 7, min(2**20, nodes - first)))
        right = order[(nodes * random.random(len(left)) ** NUM_HUBS).astype(np.int64)]
        codes.append(code.encode(left, right, 0)[left != right])
    edges.write_edges(code.both_directions(code.first_of_each_pair(np.concatenate(codes))), code, ["Is a"])
    block = random.standard_normal((min(DISTINCT_ROWS, nodes), width), dtype=np.float32)
    with storage.atomic_write(contract.concept_array_file("description")) as part, open(part, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (nodes, width)})
        for first in range(0, nodes, len(block)):
            file.write(block[: nodes - first].data)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- measuring ---------------------------------------------------------------------------------------------


class MemoryMonitor(threading.Thread):
    """The most resident GiB of this process, anonymous and of files, looked at twenty times a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak_gib = {"RssAnon": 0.0, "RssFile": 0.0}
        self.start()

    def run(self):
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.peak_gib:
                    self.peak_gib[name] = max(self.peak_gib[name], int(value.split()[0]) / 2**20)
            time.sleep(0.05)


def benchmark_training(nodes: int, steps: int, rows: int) -> dict:
    """Figures of training steps and of a share of the final vectors on the graph below MEDREP_ROOT."""
    import numpy as np
    import torch

    from medrep import contract
    from medrep.settings import GraphConfig
    from medrep.vectors import graphs
    from representation import graph

    memory, settings, random = MemoryMonitor(), GraphConfig(), torch.Generator().manual_seed(0)
    start = time.perf_counter()
    data = graphs.open_graph(contract.concept_array_file("description"))
    assert data.x is not None  # the vectors that make_graph has written
    loader = graphs.make_loader(data, settings.neighbors, settings.batch_size, torch.arange(nodes), shuffle=True)
    model = graph.Grace(data.x.shape[1], settings.hidden_size, settings.skip)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    batches, opened = iter(loader), time.perf_counter() - start
    seconds, sampling, sampled, inner = [], [], [], []
    for _ in range(steps + 1):
        start = time.perf_counter()
        batch = next(batches)
        sampling.append(time.perf_counter() - start)
        train_step(model, optimizer, batch, settings, random)
        seconds.append(time.perf_counter() - start)
        sampled.append(batch.num_nodes)
        inner.append(graphs.count_inner_and_seed_nodes(batch)[1])
    training = dict(memory.peak_gib)
    edges = np.load(contract.edges_file(), mmap_mode="r")
    starts = graphs.row_pointers(edges, nodes)
    root = torch.from_numpy(np.diff(starts) + 1).float().rsqrt()
    pieces, start, done = -(-min(rows, nodes) // graphs.ROWS_PER_CHUNK), time.perf_counter(), 0
    with torch.inference_mode(), tempfile.TemporaryFile(dir=contract.representation_folder()) as file:
        out = np.memmap(file, dtype=np.float32, mode="w+", shape=tuple(data.x.shape))
        for layer in (model.encoder.second_messages, lambda summed: model.encoder.output_vectors(summed, summed)):
            for first, summed in islice(graphs.aggregate_neighbours(data.x, edges, root, starts), pieces):
                out[first : first + len(summed)] = layer(summed).numpy()
                done += len(summed) / 2
    inference = (time.perf_counter() - start) * nodes / done
    return {
        "nodes": nodes,
        "edges": edges.shape[1],
        "largest_degree": int(np.diff(starts).max()),
        "open_seconds": round(opened, 2),
        "step_seconds": round(float(np.median(seconds[1:])), 3),
        "sampling_seconds": round(float(np.median(sampling[1:])), 3),
        "sampled": int(np.mean(sampled)),
        "inner": int(np.mean(inner)),
        "training_anonymous_gib": round(training["RssAnon"], 2),
        "anonymous_gib": round(memory.peak_gib["RssAnon"], 2),
        "file_gib": round(memory.peak_gib["RssFile"], 2),
        "inference_share": round(done / nodes, 4),
        "inference_hours": round(inference / 3600, 3),
    }


def benchmark_links(nodes: int) -> dict:
    """Figures of graph.objective=links on the graph below MEDREP_ROOT: learning, and the final vectors of all rows."""
    import numpy as np
    import torch

    from medrep import contract
    from medrep.settings import GraphConfig
    from medrep.vectors import graphs, relation_weights

    memory, settings, start = MemoryMonitor(), GraphConfig(), time.perf_counter()
    text = relation_weights.TextRows([np.load(contract.concept_array_file("description"), mmap_mode="r")])
    edges = np.load(contract.edges_file(), mmap_mode="r")
    kinds, names = graphs.open_edge_kinds(edges.shape[1])
    whole = relation_weights.WholeGraph(edges, kinds, np.zeros(nodes, dtype=np.int64), names, fixed=[])
    mean, matrix = relation_weights.fit_subspace(text, whole.draw_pairs(0), 0)
    with tempfile.TemporaryDirectory(dir=contract.representation_folder()) as folder, contextlib.ExitStack() as files:
        x, out = (graphs.scratch_array(files, (nodes, matrix.shape[1]), folder) for _ in range(2))
        relation_weights.project_rows(text, mean, matrix, x)
        shared = time.perf_counter()
        rows, part = whole.learning_part(settings)
        model = relation_weights.fit(torch.from_numpy(x[rows]), part, settings.hops, 0)
        learned = time.perf_counter()
        relation_weights.embed_nodes(model, x, whole, out, folder)
        del x, out
    return {
        "nodes": nodes,
        "learned_on": len(rows),
        "shared_seconds": round(shared - start, 1),
        "learning_seconds": round(learned - shared, 1),
        "final_seconds": round(time.perf_counter() - learned, 1),
        "anonymous_gib": round(memory.peak_gib["RssAnon"], 2),
        "file_gib": round(memory.peak_gib["RssFile"], 2),
    }


def train_step(model, optimizer, batch, settings, random):
    from representation import graph

    contrast, kept = graph.compute_losses(model, batch, settings, random)
    optimizer.zero_grad()
    (contrast + settings.distillation * kept).backward()
    optimizer.step()


def compare_samplers(nodes: int, repeats: int) -> dict:
    """Seconds of a step, ours and the common way's, in turn."""
    import torch

    from medrep import contract
    from medrep.settings import GraphConfig
    from medrep.vectors import graphs
    from representation import graph

    settings, random = GraphConfig(), torch.Generator().manual_seed(0)
    data = graphs.open_graph(contract.concept_array_file("description"))
    assert data.x is not None  # the vectors that make_graph has written
    seconds, sampled = {"ours": [], "common": []}, {}
    model = graph.Grace(data.x.shape[1], settings.hidden_size, settings.skip)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    for turn in range(repeats + 1):
        seeds = torch.randperm(nodes, generator=random)[: settings.batch_size]
        for sampler, hops in (("ours", settings.neighbors), ("common", [*settings.neighbors, settings.neighbors[-1]])):
            loader = iter(graphs.make_loader(data, hops, settings.batch_size, seeds, shuffle=False))
            start = time.perf_counter()
            batch = next(loader)
            if sampler == "common":
                batch.batch_size = batch.num_nodes  # every sampled node is a seed: all rows through both layers, a loss over all
            train_step(model, optimizer, batch, settings, random)
            if turn:  # the first one warms up
                seconds[sampler].append(time.perf_counter() - start)
            sampled[sampler] = batch.num_nodes
    best = {sampler: min(values) for sampler, values in seconds.items()}
    return {"ratio": round(best["common"] / best["ours"], 2), "ours": round(best["ours"], 3), "common": round(best["common"], 3), "sampled": sampled}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=100_000, help="of the final vectors; the time of all is in proportion")
    parser.add_argument("--small", type=int, default=5_000, help="nodes of the graph for the comparison")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args(argv)
    figures = {}
    for nodes in [args.small, *args.nodes]:
        with tempfile.TemporaryDirectory(prefix="benchmark_graph_", dir=args.folder) as root:
            measurement = (
                f"graph.compare_samplers({nodes}, {args.steps})"
                if nodes == args.small
                else f"graph.benchmark_training({nodes}, {args.steps}, {args.rows})"
            )
            calls = [f"graph.make_graph({nodes}, {args.width})"]
            calls += [f"import json; print(json.dumps(graph.benchmark_links({nodes})))"] if nodes != args.small else []
            for call in [*calls, f"import json; print(json.dumps({measurement}))"]:
                start = time.perf_counter()
                process = subprocess.run(
                    [sys.executable, "-W", "ignore", "-c", f"from benchmarks import graph; {call}"],
                    cwd=CODES,
                    text=True,
                    env={"OMP_WAIT_POLICY": "passive"} | os.environ | {"MEDREP_ROOT": root, "PYTHONPATH": str(CODES)},
                    stdout=subprocess.PIPE,
                    check=True,
                )
                print(f"{call.partition('; ')[2] or call}: {time.perf_counter() - start:.0f} s {process.stdout.strip()}", flush=True)
            figures[nodes] = json.loads(process.stdout)
    small = figures.pop(args.small)
    print(
        json.dumps(
            {"ratio": small["ratio"]}
            | {
                name: {str(nodes): f[of] for nodes, f in figures.items()}
                for name, of in {
                    "step_seconds": "step_seconds",
                    "peak_gib": "anonymous_gib",
                    "file_gib": "file_gib",
                    "inference_hours": "inference_hours",
                }.items()
            }
        )
    )


if __name__ == "__main__":
    main()
