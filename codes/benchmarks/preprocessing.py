"""OMOP tables to trajectories and labels at any size: rows per second of each stage, memory, and how both grow.

    cd codes
    python benchmarks/preprocessing.py --rows 10000000 --memory 6GB

Makes a synthetic hospital (demo/hospitals.py) of a tenth of --rows events and one of --rows, and runs every stage of
preprocessing/run.sh on both, each a process of its own. Memory is the largest resident set of a stage and its children,
looked at twenty times a second. `growth` is the seconds a row at --rows over those at a tenth of it. What it makes lies in
a folder of its own (--folder: where) and goes at the end.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from medrep.errors import UserError
from medrep.progress import print_line

CODES = Path(__file__).parents[1]
STAGES = ("persons", "visits", "records", "deaths", "site_report", "deciles", "trajectories", "labels", "audit")
DISEASES = ("MI", "PNA", "Sepsis", "UTI", "Fx")
CONCEPTS_PER_DISEASE = 20
GENERATOR_SCRIPT = """
from demo import athena_files, hospitals, terminology
from medrep import contract
words = terminology.build(0)
athena_files.write_vocabulary(words, contract.data_folder("concepts"))
print(hospitals.write_hospital("mimic", None, {rows}, 0, words)["rows"])
"""


def process_tree_memory(process: psutil.Process) -> int:
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.Error:  # it ended in between
            continue
    return total


def run_measured(command: list, root: Path, **environment: str) -> tuple[str, float, int]:
    """Its output, seconds and largest resident bytes."""
    environment = {**os.environ, "MEDREP_ROOT": str(root), "PYTHONPATH": str(CODES), **environment}
    begun, peak = time.perf_counter(), [0]
    process = subprocess.Popen(command, cwd=CODES, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def watch():
        try:
            measured = psutil.Process(process.pid)
            while process.poll() is None:
                peak[0] = max(peak[0], process_tree_memory(measured))
                time.sleep(0.05)
        except psutil.Error:
            return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    output = process.communicate()[0]
    watcher.join()
    if process.returncode:
        raise UserError(f"{' '.join(map(str, command[:3]))} failed: {output.strip().splitlines()[-1] if output.strip() else process.returncode}")
    return output, time.perf_counter() - begun, peak[0]


def write_disease_concepts(root: Path) -> dict[str, str]:
    """The synthetic vocabulary has none of the concepts that mean a disease: give each disease some of its conditions."""
    with open(root / "data" / "concepts" / "CONCEPT.csv", encoding="utf-8") as file:
        conditions = [row["concept_id"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row["domain_id"] == "Condition"]
    folder = root / "configs" / "outcomes"
    folder.mkdir(parents=True)
    for place, name in enumerate(DISEASES):
        chosen = conditions[place :: len(DISEASES)][:CONCEPTS_PER_DISEASE]
        (folder / f"{name}.json").write_text(json.dumps({"items": [{"concept": {"CONCEPT_ID": int(concept)}} for concept in chosen]}))
    return {"MEDREP_CONFIGS": str(root / "configs")}


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def benchmark_stages(rows: int, memory: str, where: Path) -> dict:
    """Figures of every stage on a hospital of about `rows` events."""
    with tempfile.TemporaryDirectory(prefix="benchmark_", dir=where) as root:
        root = Path(root)
        output, seconds, _ = run_measured([sys.executable, "-c", GENERATOR_SCRIPT.format(rows=rows)], root)
        rows = int(output.split()[-1])
        print_line(f"{rows:,} event rows, {folder_bytes(root / 'data') / 2**30:.2f} GiB of CSV, made in {seconds:.0f} s")
        stages, overlay = {}, write_disease_concepts(root)
        for stage in STAGES:
            _, seconds, peak = run_measured([sys.executable, f"preprocessing/{stage}.py", "--hospital", "mimic", "--memory", memory], root, **overlay)
            stages[stage] = {"seconds": round(seconds, 2), "rows_per_second": round(rows / seconds), "peak_gib": round(peak / 2**30, 3)}
            print_line(f"{stage:<14}{seconds:>9.1f} s{rows / seconds:>14,.0f} rows/s{peak / 2**30:>9.2f} GiB")
        seconds = sum(figures["seconds"] for figures in stages.values())
        written = folder_bytes(root / "usedata")
        print_line(
            f"{'in all':<14}{seconds:>9.1f} s{rows / seconds:>14,.0f} rows/s{max(s['peak_gib'] for s in stages.values()):>9.2f} GiB; "
            f"{written / 2**30:.2f} GiB written"
        )
        return {"rows": rows, "seconds": seconds, "stages": stages, "bytes_written": written}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="events of the larger hospital")
    parser.add_argument("--memory", default="6GB", help="the most DuckDB may hold")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the hospitals are made (100 bytes a row, twice)")
    args = parser.parse_args(argv)
    if args.rows < 100:
        raise UserError(f"--rows {args.rows}: give 100 or more")
    small, large = (benchmark_stages(rows, args.memory, args.folder) for rows in (args.rows // 10, args.rows))
    growth = (large["seconds"] / large["rows"]) / (small["seconds"] / small["rows"])
    peak = max(figures["peak_gib"] for figures in large["stages"].values())
    print(
        json.dumps(
            {
                "rows": large["rows"],
                "rows_per_second": round(large["rows"] / large["seconds"]),
                "peak_gib": peak,
                "growth": round(growth, 3),
                "bytes_written": large["bytes_written"],
                "stages": {name: f["rows_per_second"] for name, f in large["stages"].items()},
            }
        )
    )


if __name__ == "__main__":
    main()
