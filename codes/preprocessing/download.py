"""Bring the open MIMIC-IV demo in OMOP form into data/mimic; say how to get what needs credentials.

    cd codes
    python preprocessing/download.py mimic-demo
    python preprocessing/download.py mimic-iv          # or ehrshot, athena: explains where they come from

Reads   https://physionet.org/files/mimic-iv-demo-omop/0.9 (ODbL 1.0) and patients.csv.gz of mimic-iv-demo/2.2
Writes  data/mimic: the seven OMOP tables and MIMIC's own patients.csv.gz

Each file is checked against the SHA256SUMS.txt that PhysioNet publishes beside it. Broken off, the same command continues
where it stopped. A file of yours that lies there is never replaced.
"""

import argparse
import urllib.request
from pathlib import Path

from medrep import contract, storage
from medrep.download import TIMEOUT_SECONDS, download, retry
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage

PHYSIONET_FILES_URL = "https://physionet.org/files"
OMOP_DEMO, MIMIC_DEMO = "mimic-iv-demo-omop/0.9", "mimic-iv-demo/2.2"
TABLES = ("person", "visit_occurrence", "condition_occurrence", "drug_exposure", "measurement", "procedure_occurrence", "death")
FILES = {**{f"{table}.csv": (OMOP_DEMO, f"1_omop_data_csv/{table}.csv") for table in TABLES}, "patients.csv.gz": (MIMIC_DEMO, "hosp/patients.csv.gz")}
"""{name in data/mimic: (project, path in it)}"""
ACCESS_INSTRUCTIONS = {
    "mimic-iv": "MIMIC-IV needs a credentialed PhysioNet account (https://physionet.org/content/mimiciv/2.2/): convert it with the OHDSI ETL "
    "(https://github.com/OHDSI/MIMIC), and put the seven OMOP tables and MIMIC's own hosp/patients.csv into data/mimic",
    "ehrshot": "EHRSHOT needs a signed agreement on Redivis (https://redivis.com/datasets/53gc-8rhx41kgt): export its OMOP tables as CSV "
    "into data/ehrshot",
    "athena": "the OMOP vocabulary needs a free account on https://athena.ohdsi.org: choose SNOMED, LOINC, RxNorm, ATC, ICD9CM and "
    "what your hospital uses besides, and put CONCEPT.csv and CONCEPT_RELATIONSHIP.csv (CONCEPT_ANCESTOR.csv, if you can) into data/concepts",
}
PHYSIONET_URL = "https://physionet.org"
FOREIGN_FILE_MESSAGE = "is there and is not the demo's file: move it away, or point MEDREP_ROOT at another folder"


def read_checksums(base: str, project: str) -> dict[str, str]:
    """{path: sha256} that PhysioNet publishes of a project."""
    url = f"{base}/{project}/SHA256SUMS.txt"
    text = retry(url, lambda: urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS).read().decode(), PHYSIONET_URL)
    return {path.strip(): digest for digest, path in (line.split(maxsplit=1) for line in text.splitlines() if line.strip())}


def download_file(url: str, path: Path, digest: str):
    """`path` with the bytes of `url`, whose SHA-256 is `digest`."""
    if path.exists():
        if storage.sha256_of(path) == digest:
            print_line(f"{contract.display_path(path)} is there already")
            return
        raise UserError(f"{contract.display_path(path)} {FOREIGN_FILE_MESSAGE}")
    storage.make_folder(path.parent)
    part = download(url, path, PHYSIONET_URL)
    if storage.sha256_of(part) != digest:
        part.unlink()
        raise UserError(f"{url} is not the file whose SHA-256 is published beside it: nothing was kept, try again later")
    part.rename(path)
    print_line(f"{contract.display_path(path)}: {path.stat().st_size:,} bytes, as published")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["mimic-demo", *ACCESS_INSTRUCTIONS])
    parser.add_argument("--base-url", default=PHYSIONET_FILES_URL, help="a mirror of physionet.org/files")
    args = parser.parse_args(argv)
    if args.what in ACCESS_INSTRUCTIONS:
        raise UserError(ACCESS_INSTRUCTIONS[args.what])
    with timed_stage("download") as figures:
        folder = contract.data_folder("mimic")
        for table in TABLES:  # person.csv.gz beside person.csv would be two files of one table
            if others := [path for suffix in (".csv.gz", ".parquet") if (path := folder / f"{table}{suffix}").exists()]:
                raise UserError(f"{contract.display_path(others[0])} {FOREIGN_FILE_MESSAGE}")
        sums = {project: read_checksums(args.base_url, project) for project in (OMOP_DEMO, MIMIC_DEMO)}
        for name, (project, path) in FILES.items():
            if path not in sums[project]:
                raise UserError(f"{args.base_url}/{project}/SHA256SUMS.txt does not list {path}: is there a new version on physionet.org?")
            download_file(f"{args.base_url}/{project}/{path}", folder / name, sums[project][path])
        figures.update(files=len(FILES), bytes=sum((folder / name).stat().st_size for name in FILES))
        print_line(
            f"{contract.display_path(folder)}: the MIMIC-IV demo (ODbL 1.0: attribution, share-alike); the vocabulary is still needed: download.py athena"
        )


if __name__ == "__main__":
    main()
