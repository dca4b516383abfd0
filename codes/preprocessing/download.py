"""Bring the open demos of MIMIC-IV, in OMOP form, and of eICU into data/mimic and data/eicu; say how to get what needs credentials.

    cd codes
    python preprocessing/download.py mimic-demo
    python preprocessing/download.py eicu-demo
    python preprocessing/download.py mimic-iv          # or ehrshot, eicu, athena: explains where they come from

Reads   https://physionet.org/files/mimic-iv-demo-omop/0.9 (ODbL 1.0) and patients.csv.gz of mimic-iv-demo/2.2;
        https://physionet.org/files/eicu-crd-demo/2.0.1 (ODbL 1.0)
Writes  data/mimic: the seven OMOP tables and MIMIC's own patients.csv.gz
        data/eicu: the tables that preprocessing/eicu.py reads, and apachePatientResult, which it does not: APACHE's predictions

Each file is checked against the SHA256SUMS.txt that PhysioNet publishes beside it. Broken off, the same command continues
where it stopped. A file of yours that lies there is never replaced.
"""

import argparse
import urllib.request
from pathlib import Path

from medrep import contract, storage
from medrep.cdm.eicu.files import TABLES as EICU_TABLES
from medrep.cdm.table_files import TABLE_SUFFIXES
from medrep.download import TIMEOUT_SECONDS, download, retry
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage

PHYSIONET_FILES_URL = "https://physionet.org/files"
OMOP_DEMO, MIMIC_DEMO, EICU_DEMO = "mimic-iv-demo-omop/0.9", "mimic-iv-demo/2.2", "eicu-crd-demo/2.0.1"
TABLES = ("person", "visit_occurrence", "condition_occurrence", "drug_exposure", "measurement", "procedure_occurrence", "death")
FILES = {**{f"{table}.csv": (OMOP_DEMO, f"1_omop_data_csv/{table}.csv") for table in TABLES}, "patients.csv.gz": (MIMIC_DEMO, "hosp/patients.csv.gz")}
"""{name in data/mimic: (project, path in it)}"""
EICU_FILES = {f"{table}.csv.gz": (EICU_DEMO, f"{table}.csv.gz") for table in (*EICU_TABLES, "apachePatientResult")}
DEMOS = {"mimic-demo": ("mimic", FILES, "MIMIC-IV"), "eicu-demo": ("eicu", EICU_FILES, "eICU")}
"""{what to ask for: (folder below data/, its files, whose demo it is)}"""
ACCESS_INSTRUCTIONS = {
    "mimic-iv": "MIMIC-IV needs a credentialed PhysioNet account (https://physionet.org/content/mimiciv/2.2/): convert it with the OHDSI ETL "
    "(https://github.com/OHDSI/MIMIC), and put the seven OMOP tables and MIMIC's own hosp/patients.csv into data/mimic",
    "eicu": "eICU needs a credentialed PhysioNet account (https://physionet.org/content/eicu-crd/2.0/): put its tables, as they are, into data/eicu",
    "ehrshot": "EHRSHOT needs a signed agreement on Redivis (https://redivis.com/datasets/53gc-8rhx41kgt): export its OMOP tables as CSV "
    "into data/ehrshot; for the benchmark's own tasks unpack EHRSHOT_ASSETS.zip of the same place there, too",
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


def check_folder(folder: Path, names: list[str]):
    """Refuse a folder with a table of another kind than ours: person.csv.gz beside person.csv would be two files of one table."""
    for name in names:
        table = name.partition(".")[0]
        others = [path for suffix in TABLE_SUFFIXES if (path := folder / f"{table}{suffix}").exists() and path.name != name]
        if others:
            raise UserError(f"{contract.display_path(others[0])} {FOREIGN_FILE_MESSAGE}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*DEMOS, *ACCESS_INSTRUCTIONS])
    parser.add_argument("--base-url", default=PHYSIONET_FILES_URL, help="a mirror of physionet.org/files")
    args = parser.parse_args(argv)
    if args.what in ACCESS_INSTRUCTIONS:
        raise UserError(ACCESS_INSTRUCTIONS[args.what])
    hospital, files, owner = DEMOS[args.what]
    with timed_stage("download") as figures:
        folder = contract.data_folder(hospital)
        check_folder(folder, list(files))
        sums = {project: read_checksums(args.base_url, project) for project in sorted({project for project, _ in files.values()})}
        for name, (project, path) in files.items():
            if path not in sums[project]:
                raise UserError(f"{args.base_url}/{project}/SHA256SUMS.txt does not list {path}: is there a new version on physionet.org?")
            download_file(f"{args.base_url}/{project}/{path}", folder / name, sums[project][path])
        figures.update(files=len(files), bytes=sum((folder / name).stat().st_size for name in files))
        print_line(
            f"{contract.display_path(folder)}: the {owner} demo (ODbL 1.0: attribution, share-alike); the vocabulary is still needed: download.py athena"
        )


if __name__ == "__main__":
    main()
