"""Whether what a model was made from has seen those that a benchmark tests: its pretraining, that of the model it goes on from, vectors that were
learned from patients, and the splits that the hospital's own deciles and vocabulary come from.

    leakage.find_leakage(arm.pretrained, rep, home, examples, parts["test"])      "" if it is known that none were seen, or what is known else

Codes and vectors are of a hospital's train persons, and so are its deciles but as published (cohort.decile_persons: all); pretraining has also
seen its valid persons, who tell it when to stop. Who these are its trajectories say, as long as they are the ones that were learned from. At another
hospital a person of the same id is the same, if sex and year of birth agree as well, for more than one in twenty of the ids that both have.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medrep import contract, stamps
from medrep.cdm.engine import connect
from medrep.patients import finished_runs
from medrep.patients.examples import Examples
from medrep.patients.sequences import Trajectories
from medrep.tables import DECILES, PERSONS

SAME_BY_CHANCE = 0.05  # of two strangers of one id, sex and year of birth agree in one of 100 or fewer


@dataclass(frozen=True)
class TrainingSource:
    """What something was learned from: a hospital's trajectories, and their fingerprint then; None: those that are there now."""

    what: str
    """Who has learned, in words."""
    hospital: str
    fingerprint: str | None
    splits: tuple[str, ...] = ("train",)
    """Whose persons were seen."""


def find_training_sources(pretrained: Path | None, rep: str, home: str) -> list[TrainingSource]:
    """Whatever was learned from patients before the labels: the pretrained model with those it goes on from, its codes, its vectors."""
    found = [] if pretrained is None else pretraining_sources(pretrained)
    found += [TrainingSource("the codes that are known", home, None)]
    stamp = stamps.read_stamp(contract.concept_array_file(rep)) if rep != "none" and not rep.endswith(".npy") else None
    return found + trajectory_inputs(f"the vectors of {rep}", (stamp or {}).get("inputs", {}))


def pretraining_sources(folder: Path, after: tuple[Path, ...] = ()) -> list[TrainingSource]:
    """Of a pretrained model, and of those before it (pretrain.py --from); `after` are those that go on from it."""
    what, splits = f"the pretraining of {contract.display_path(folder)}", ("train", "valid")
    unknown = TrainingSource(what, "", "")
    if folder in after or not (folder / "config.yaml").exists():
        return [unknown]
    content = finished_runs.read_run(folder)
    found = trajectory_inputs(what, content["inputs"], splits) or [unknown]
    start = content["run"].get("from")
    if not start:
        return found
    before = contract.ROOT / start
    as_it_was = content["inputs"].get(contract.display_path(before / "config.yaml")) == stamps.fingerprint(before / "config.yaml")
    return found + (pretraining_sources(before, (*after, folder)) if as_it_was else [TrainingSource(f"the pretraining of {start}", "", "")])


def trajectory_inputs(what: str, inputs: dict[str, str | None], splits: tuple[str, ...] = ("train",)) -> list[TrainingSource]:
    """The hospitals' trajectories among the recorded inputs of something."""
    paths = {Path(path): fingerprint for path, fingerprint in inputs.items()}
    return [TrainingSource(what, path.parent.name, fingerprint, splits) for path, fingerprint in paths.items() if path.name == "trajectories"]


def find_leakage(pretrained: Path | None, rep: str, home: str, examples: Examples, tested: np.ndarray) -> str:
    """What is to be said of the `tested` rows of examples.table: "" where none of their persons was seen."""
    persons = np.unique(examples.persons[tested[:, 3]])
    made = (stamps.read_stamp(DECILES.at(hospital=examples.hospital)) or {}).get("settings") or {}
    splits = contract.SPLITS if made.get("decile_persons") == "all" else ("train",)
    sources = [TrainingSource(f"the deciles and codes of {examples.hospital}", examples.hospital, None, splits)]
    if pretrained is not None or rep:
        sources += find_training_sources(pretrained, rep, home)
    said = []
    for source in dict.fromkeys(sources):
        if not is_there(source):
            said.append(f"whom {source.what} saw can't be told: what it was made from is not there any more")
        elif n := count_seen(source, examples.hospital, persons):
            said.append(f"{source.what} saw {n:,} of the {len(persons):,} test persons")
    return "; ".join(dict.fromkeys(said))


def is_there(source: TrainingSource) -> bool:
    """Whether the hospital's trajectories are there, and those that were learned from."""
    if not source.hospital:
        return False
    folder = contract.trajectories_folder(source.hospital)
    return folder.exists() and source.fingerprint in (None, stamps.fingerprint(folder))


def count_seen(source: TrainingSource, tested_at: str, persons: np.ndarray) -> int:
    """How many of `persons` (ids) of `tested_at` are among those whom `source` saw."""
    hospital = source.hospital
    trajectories = Trajectories(hospital)
    seen = np.asarray(trajectories.person_id)[trajectories.rows_in_splits(*source.splits)]
    both = np.intersect1d(seen, persons)
    if hospital == tested_at or not len(both):
        return len(both)
    here, there = (known_persons(name).reindex(both) for name in (tested_at, hospital))
    same = int(((here.sex == there.sex) & (here.year_of_birth == there.year_of_birth)).sum())
    return same if same > SAME_BY_CHANCE * len(both) else 0


def known_persons(hospital: str) -> pd.DataFrame:
    return PERSONS.read(connect(), hospital=hospital).to_pandas().set_index("person_id")
