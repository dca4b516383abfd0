"""How long a large vocabulary takes from index to quality table, and how much memory, but for the encoders (text.py, graph.py).

    cd codes
    python benchmarks/vocabulary.py --concepts 1000000

Makes a vocabulary of so many concepts below a temporary folder (four relationships and a synonym each, a twentieth of them
measurements, which have ten deciles), and runs concepts.py --scope all, definitions.py, edges.py, random_vectors.py and
evaluate.py on it in processes of their own, with the demo's settings. The last line is JSON: rows of the index, and seconds
and peak GiB of each stage.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

CODES = Path(__file__).resolve().parents[1]
STAGES = {"concepts": ["--scope", "all"], "definitions": [], "edges": [], "random_vectors": [], "evaluate": []}


def make_vocabulary(folder: Path, concepts: int):
    folder.mkdir(parents=True)
    con = duckdb.connect()
    con.execute("SET preserve_insertion_order = false")
    copy = "(FORMAT csv, DELIMITER '\t', HEADER, QUOTE '', ESCAPE '')"
    domain = "CASE WHEN i % 20 = 0 THEN 'Measurement' WHEN i % 20 < 12 THEN 'Drug' WHEN i % 20 < 16 THEN 'Condition' ELSE 'Procedure' END"
    con.execute(f"""COPY (SELECT i AS concept_id, 'invented clinical concept ' || md5(i::text) || ' 100 MG' AS concept_name, {domain} AS domain_id,
        'V' AS vocabulary_id, 'Class ' || i % 9 AS concept_class_id, 'S' AS standard_concept, 'c' || i AS concept_code,
        '19700101' AS valid_start_date, '20991231' AS valid_end_date, NULL AS invalid_reason FROM range(1, {concepts} + 1) t(i))
        TO '{folder}/CONCEPT.csv' {copy}""")
    con.execute(f"""COPY (SELECT i AS concept_id_1, hash(i, j) % {concepts} + 1 AS concept_id_2,
        ['Is a', 'RxNorm has ing', 'Has finding site', 'Subsumes'][j] AS relationship_id, '19700101' AS valid_start_date,
        '20991231' AS valid_end_date, NULL AS invalid_reason FROM range(1, {concepts} + 1) t(i), range(1, 5) u(j))
        TO '{folder}/CONCEPT_RELATIONSHIP.csv' {copy}""")
    con.execute(f"""COPY (SELECT i AS concept_id, 'also called ' || md5(i::text) AS concept_synonym_name, 4180186 AS language_concept_id
        FROM range(1, {concepts} + 1) t(i)) TO '{folder}/CONCEPT_SYNONYM.csv' {copy}""")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=1_000_000)
    parser.add_argument("--memory", default="8GB")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="medrep_vocabulary_") as root:
        make_vocabulary(Path(root) / "data" / "concepts", args.concepts)
        figures = {"concepts": args.concepts}
        for name, flags in STAGES.items():
            start = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, f"representation/{name}.py", *flags, "--memory", args.memory],
                cwd=CODES,
                env=os.environ | {"MEDREP_ROOT": root, "MEDREP_CONFIGS": "configs/demo"},
            )
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"representation/{name}.py failed")
            figures |= {f"{name}_seconds": round(time.perf_counter() - start, 1), f"{name}_peak_gib": round(usage.ru_maxrss / 2**20, 2)}
        index = Path(root) / "usedata" / "representation" / "concept_idx.csv"
        figures["rows"] = index.read_bytes().count(b"\n") - 1
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
