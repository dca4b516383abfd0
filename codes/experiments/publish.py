"""Publish a patient model, or concept vectors, as a folder or on the Hugging Face Hub: with a card, with code to load it, and nothing of a patient.

    cd codes
    python experiments/publish.py ../results/mimic/finetuning/behrt_medrep/MT/seed_100 --to ../published --name mimic="MIMIC-IV 2.2"
    python experiments/publish.py ../results/mimic/pretraining/behrt_medrep --to user/name      # the token is in HF_TOKEN
    python experiments/publish.py medrep --to ../vectors --license mit --contact me@example.org # the concept vectors

Reads   the run's folder, usedata/{hospital}/{trajectories,vocabulary.json,labels} (whose persons have what), usedata/representation, data/concepts
Writes  a folder, whole or not at all: README.md (the card), LICENSE, config.json, model.safetensors, vocabulary.json, configuration_behrt_omop.py
        and modeling_behrt_omop.py, by which AutoModel.from_pretrained(..., trust_remote_code=True) loads it without this repository, and
        publication.json; of vectors concept_vectors.safetensors and its .json, which representation/export.py --import puts in place

What fewer than 11 persons have goes out of the model (report.small_count may say more), and is counted: tokens, ages, ranks. No prediction, no
count of codes, no path and no name of a hospital goes along that --name does not give. An invented hospital is said to be one. A folder with
other files in it is refused.
"""

import argparse
import re
import tempfile
from pathlib import Path

from medrep import config, storage
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.publishing import check, contents, hub
from medrep.publishing.names import PublicNames
from medrep.publishing.rare import MIN_PERSONS
from medrep.publishing.run import FinishedRun
from medrep.vectors import representations


def is_repository(to: str) -> bool:
    """Whether `to` is user/name on the Hub, and not a folder; what may be both is refused."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", to):
        return False
    if Path(to).parent.is_dir():
        raise UserError(f"--to {to} may be a folder here or a name on the Hub: write ./{to} for the folder, or run this elsewhere")
    return True


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "run", metavar="RUN", help="a folder that pretrain.py or finetune.py has written, or the name of a representation: its vectors"
    )
    parser.add_argument("--to", required=True, metavar="FOLDER|USER/NAME", help="a folder that is not there yet, or a name on the Hub")
    parser.add_argument(
        "--name", action="append", default=[], metavar="NAME=WORDS", help="what the card calls a hospital, outcome or arm; repeatable"
    )
    parser.add_argument("--license", default="other", help="of the weights, as the Hub calls it; default other: you have not said")
    parser.add_argument("--contact", default="", metavar="URL|MAIL", help="whom the card says to ask")
    parser.add_argument("--public", action="store_true", help="make a new repository on the Hub one that all can see")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    if not re.fullmatch(r"[a-z0-9.-]+", args.license):
        raise UserError(f"--license {args.license!r}: give a licence as the Hub calls it, such as mit, apache-2.0 or cc-by-nc-4.0")
    if args.contact and not re.fullmatch(r"https?://[^\s<>@/]+(/[^\s<>]*)?|[^\s<>@/]+@[^\s<>@/]+", args.contact):
        raise UserError(f"--contact {args.contact!r}: give a URL that begins with https:// or http://, or a mail address")
    repo = args.to if is_repository(args.to) else ""
    if repo:
        hub.require_write_access(repo)
    elif args.public:
        raise UserError("--public is for the Hub, and --to is a folder: leave it out")
    else:
        check.require_ours(Path(args.to).resolve())
    with timed_stage("publish") as figures:
        figures.update(publish_to_hub(args, repo) if repo else publish_to_folder(args, Path(args.to).resolve()))


def write(args, folder: Path, repo: str) -> dict:
    """Write what is published of the run into an empty folder; gives figures of it."""
    min_count = max(MIN_PERSONS, config.load("report", args.overrides).small_count)
    publication = {"licence": args.license, "repo": repo, "contact": args.contact}
    if args.run in representations.list_representations() and not (Path(args.run) / "config.yaml").exists():  # codes has a folder medrep
        names = PublicNames(args.name, config.load("cohort", args.overrides).home, args.overrides)
        return contents.write_vectors(folder, args.run, names, min_count, **publication)
    run = FinishedRun(Path(args.run))
    figures = contents.write_model(folder, run, PublicNames(args.name, run.facts["home"], args.overrides), min_count, **publication)
    removed = ", ".join(f"{name} {n:,}" for name, n in figures["removed"].items())
    print_line(f"taken out, as fewer than {min_count} persons have them: {removed}; tokens left: {figures['tokens']:,}")
    return figures


def publish_to_folder(args, target: Path) -> dict:
    with storage.atomic_write(target) as part:
        part.mkdir()
        figures = write(args, part, "")
        check.require_ours(target)  # still: what was put there meanwhile is not replaced
    print_line(f"{target}: {', '.join(sorted(path.name for path in target.iterdir()))}")
    return figures


def publish_to_hub(args, repo: str) -> dict:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "published"
        folder.mkdir()
        figures = write(args, folder, repo)
        where = hub.upload(folder, repo, args.public)
    print_line(f"{where}: published{'' if args.public else ', and private if it is new: its page has a switch for that'}")
    return figures


if __name__ == "__main__":
    main()
