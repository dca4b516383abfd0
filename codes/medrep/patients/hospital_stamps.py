"""What the stamps of two hospitals' data tell who takes a model from one to the other: what their labels mean, and whose decile edges cut their values.

    hospital_stamps.require_same_definition("mimic", "ehrshot", "MT")
    hospital_stamps.require_same_deciles("mimic", "ehrshot")
    hospital_stamps.find_stay_rule("ehrshot", "MT", cohort)      # which visits were one stay to the labels

Of data without a stamp, as of an earlier version or from elsewhere, nothing is known, and nothing is asked.
"""

from pathlib import Path

from medrep import contract, stamps
from medrep.cdm.labels.stays import joins_transfers
from medrep.errors import UserError
from medrep.patients.index_stays import StayRule
from medrep.settings import CohortConfig
from medrep.tables import DECILES, LABELS

OF_ONE_HOSPITAL = ("follow_up_ends", "history_types", "max_unreadable_times")
"""What labels are made with and may differ by hospital: how its data are, not what is asked."""
CONCEPT_SETS = (".json", ".yaml")


def read_label_stamp(hospital: str, outcome: str) -> dict[str, dict]:
    stamp = stamps.read_stamp(LABELS.at(hospital=hospital, outcome=outcome)) or {}
    return {name: stamp.get(name) or {} for name in ("settings", "inputs")}


def remaking_command(home: str, hospital: str) -> str:
    return f'HOSPITALS="{home} {hospital}" bash preprocessing/run.sh --set cohort.home={home}'


# ---- labels ------------------------------------------------------------------------------------------------------


def require_same_definition(home: str, hospital: str, outcome: str):
    """Refuse labels that were made with other settings, another concept set or another vocabulary than home's, under whose name they would stand."""
    ours, theirs = read_label_stamp(home, outcome), read_label_stamp(hospital, outcome)
    differ = [
        f"cohort.{name} is {theirs['settings'][name]!r} there and {value!r} at {home}"
        for name, value in ours["settings"].items()
        if name not in OF_ONE_HOSPITAL and theirs["settings"].get(name, value) != value
    ]
    our_files, their_files = shared_files(ours), shared_files(theirs)
    differ += [f"{name} is another file or changed in between" for name, found in our_files.items() if their_files.get(name, found) != found]
    if differ:
        raise UserError(
            f"{outcome} has another definition at {hospital} than at {home} ({'; '.join(differ)}): {remaking_command(home, hospital)} with the same "
            f"settings for both labels them alike, and preprocessing/labels.py with the same --outcome FILE where that is yours, or --external leaves "
            f"{hospital} out"
        )


def shared_files(stamp: dict) -> dict[str, str | None]:
    """{input of labels: fingerprint}, a concept set by its name alone, as it may lie in two places; tables of one hospital have a path of their own."""
    return {Path(path).name if path.endswith(CONCEPT_SETS) else path: found for path, found in stamp["inputs"].items()}


def find_stay_rule(hospital: str, outcome: str, cohort: CohortConfig) -> StayRule:
    """What the labels had as one stay; `cohort` says it of labels that don't."""
    made = read_label_stamp(hospital, outcome)["settings"]
    transfers = made.get("transfers", cohort.transfers)
    return StayRule(made.get("transfer_hours", cohort.transfer_hours), transfers, joins_transfers(outcome, transfers))


# ---- deciles -----------------------------------------------------------------------------------------------------


def require_same_deciles(home: str, hospital: str):
    """Refuse a hospital whose values were cut by other edges than home's: a token such as 3004410_7 would be another value there."""
    edges = [find_edges(name) for name in (home, hospital)]
    if None not in edges and edges[0] != edges[1]:
        raise UserError(
            f"the deciles of {hospital} are not those of {home} (its values were cut by other edges, or {home}'s were made anew since): "
            f"{remaking_command(home, hospital)} cuts them as {home}'s"
        )


def find_edges(hospital: str) -> tuple | None:
    """What two hospitals have in common whose values the same edges cut; None where it is not known. Where each has its own (cohort.decile_edges), all
    have that in common."""
    made = stamps.read_stamp(DECILES.at(hospital=hospital))
    if made is None or "decile_edges" not in (made["settings"] or {}):
        return None
    if made["settings"]["decile_edges"] == "own":
        return ("own",)
    whose = made["settings"]["home"]
    table = DECILES.at(hospital=whose)
    return whose, stamps.fingerprint(table) if whose == hospital else made["inputs"].get(contract.display_path(table))
