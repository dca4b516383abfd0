"""The stages that a first look rests on, and the commands of those that have not been run."""

from medrep import contract
from medrep.cdm import outcomes
from medrep.settings import CohortConfig
from medrep.tables import DEATHS, DECILES, LABELS, PERSONS, RECORDS, VISITS


def find_missing(hospital: str, cohort: CohortConfig) -> list[tuple[str, str]]:
    """(what is not there, the command that makes it), in the order in which they are to be run."""
    edges_of = cohort.home if cohort.decile_edges == "home" else hospital
    steps = {
        "persons": PERSONS.at(hospital=hospital),
        "visits": VISITS.at(hospital=hospital),
        "records": RECORDS.at(hospital=hospital),
        "deaths": DEATHS.at(hospital=hospital),
        "site_report": contract.site_file(hospital),
        **({"deciles": DECILES.at(hospital=hospital)} if hospital != edges_of else {}),
        "trajectories": contract.trajectories_folder(hospital),
    }
    missing = []
    if not DECILES.at(hospital=edges_of).exists():  # those of home cut every hospital's values
        missing.append((f"decile edges of {edges_of}", f"HOSPITALS={edges_of} bash preprocessing/run.sh"))
        if hospital != edges_of:
            missing.append((f"or {hospital} is home", f"python experiments/explore.py --hospital {hospital} --set cohort.home={hospital}"))
    missing += [
        (stage.replace("_", " "), f"python preprocessing/{stage}.py --hospital {hospital}") for stage, path in steps.items() if not path.exists()
    ]
    if unlabelled := [outcome for outcome in possible_outcomes() if not LABELS.at(hospital=hospital, outcome=outcome).exists()]:
        # it says of which diseases data/concepts has no concepts
        missing.append((f"labels of {', '.join(unlabelled)}", f"python preprocessing/labels.py --hospital {hospital}"))
    if not contract.concept_index_file().exists():
        missing.append(("the concepts that have a vector", "python representation/concepts.py"))
    return missing


def possible_outcomes() -> list[str]:
    """The built-in outcomes; diseases need data/concepts, and are left out where it is not there."""
    there = contract.concepts_folder().is_dir()
    return [name for name, outcome in outcomes.built_in_outcomes().items() if there or outcome.source is None]
