"""Every stage of this folder, for every hospital, in one process: what run.sh runs.

    cd codes
    python preprocessing/all_stages.py --hospitals mimic ehrshot --memory 32GB

Reads and writes what the stages do. --hospitals: the home hospital (cohort.home) first, as the others use its decile edges. It is not the first
place that makes a home: --set cohort.home=eicu does.
All other flags go to every stage. A process a stage would spend more time on imports, and with Spark on Java, than a small
hospital takes.
"""

import argparse
import gc

from medrep import config, contract, locks
from medrep.cdm import spill
from medrep.errors import UserError
from medrep.progress import print_line, print_root
from medrep.tables import DECILES
from preprocessing import audit, database, deaths, deciles, eicu, labels, persons, records, site_report, trajectories, visits

STAGES = (database, eicu, persons, visits, records, deaths, site_report, deciles, trajectories, labels, audit)


def check_home(hospitals: list[str], flags: list[str]):
    """Say which hospital is home; refuse others before it, if their decile edges are to be its and it has none yet."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    config.add_arguments(parser)
    cohort = config.load("cohort", parser.parse_known_args(flags)[0].overrides)
    if cohort.decile_edges == "home" and hospitals[0] != cohort.home and not DECILES.at(hospital=cohort.home).exists():
        raise UserError(
            f"{hospitals[0]} comes first, and the home hospital is {cohort.home} (cohort.home), which is not preprocessed yet: name {cohort.home} "
            f"first, or make {hospitals[0]} the home hospital by --set cohort.home={hospitals[0]}, here and with every later command"
        )
    print_line(f"the home hospital is {cohort.home} (cohort.home)")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--hospitals", nargs="+", required=True, metavar="NAME", help="folders under data/")
    args, flags = parser.parse_known_args(argv)
    if any(flag.partition("=")[0] == "--hospital" for flag in flags):
        raise UserError('--hospital is a flag of a single stage: name hospitals by --hospitals, or for run.sh by HOSPITALS="mimic seoul"')
    print_root(contract.ROOT)
    # in one order, so that of two commands none waits for the other; the second goes through all stages after the first
    held = [locks.hold(contract.used_folder(hospital)) for hospital in sorted(args.hospitals)]
    check_home(args.hospitals, flags)
    for stage in STAGES:  # stage by stage, so that a hospital whose tables are missing is noticed before the long work
        for hospital in args.hospitals:
            stage.main(["--hospital", hospital, *flags])
            spill.TEMPORARY_FOLDERS.clear()  # a stage's temporary files go before the next stage begins
            gc.collect()  # and so does what its engine holds in memory
    del held


if __name__ == "__main__":
    main()
