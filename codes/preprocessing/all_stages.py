"""Every stage of this folder, for every hospital, in one process: what run.sh runs.

    cd codes
    python preprocessing/all_stages.py --hospitals mimic ehrshot --memory 32GB

Reads and writes what the stages do. --hospitals: the home hospital (cohort.home) first, as the others use its decile edges.
All other flags go to every stage. A process a stage would spend more time on imports, and with Spark on Java, than a small
hospital takes.
"""

import argparse
import gc

from medrep.cdm import spill
from medrep.errors import UserError
from preprocessing import audit, deaths, deciles, eicu, labels, persons, records, site_report, trajectories, visits

STAGES = (eicu, persons, visits, records, deaths, site_report, deciles, trajectories, labels, audit)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--hospitals", nargs="+", required=True, metavar="NAME", help="folders under data/")
    args, flags = parser.parse_known_args(argv)
    if any(flag.partition("=")[0] == "--hospital" for flag in flags):
        raise UserError('--hospital is a flag of a single stage: name hospitals by --hospitals, or for run.sh by HOSPITALS="mimic seoul"')
    for stage in STAGES:  # stage by stage, so that a hospital whose tables are missing is noticed before the long work
        for hospital in args.hospitals:
            stage.main(["--hospital", hospital, *flags])
            spill.TEMPORARY_FOLDERS.clear()  # a stage's temporary files go before the next stage begins
            gc.collect()  # and so does what its engine holds in memory


if __name__ == "__main__":
    main()
