"""Whom a benchmark gives to learn from and to be tested, in place of our own splits, and what it draws for few shots (tables.PREDEFINED_SPLITS)."""

from functools import cached_property

import numpy as np
import pandas as pd

from medrep import contract
from medrep.cdm import ehrshot
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.patients.examples import Examples
from medrep.progress import print_line
from medrep.tables import PREDEFINED_SPLITS

WHOLE = ehrshot.WHOLE
DEFAULT_REPLICATES = [0, 1, 2]  # EHRSHOT's, for a task without a file of them


class PredefinedSplits:
    """The parts of an outcome's examples at a hospital; labels.py has written them."""

    def __init__(self, hospital: str, outcome: str):
        self.hospital, self.outcome = hospital, outcome
        self.table = PREDEFINED_SPLITS.read(connect(), hospital=hospital, outcome=outcome).to_pandas()

    @cached_property
    def drawn(self) -> pd.DataFrame:
        return self.table[self.table.shots != WHOLE]

    @property
    def replicates(self) -> list[int]:
        """Each is a draw of the few shots; what is learned from all has them as seeds."""
        return sorted(int(replicate) for replicate in self.drawn.replicate.unique()) or DEFAULT_REPLICATES

    def check_asked(self, shots: int, seeds: list[int]):
        """Refuse what the benchmark has not drawn."""
        if shots == WHOLE:
            return
        there = sorted(int(k) for k in self.drawn.shots.unique())
        if not there:
            raise UserError(
                f"--shots {shots}: no draws of {self.outcome} were there when it was labelled: put benchmark of EHRSHOT_ASSETS.zip into "
                f"{contract.display_path(contract.data_folder(self.hospital))}, run labels.py again, and then this"
            )
        if shots not in there:
            raise UserError(
                f"--shots {shots}: the benchmark has drawn {', '.join(map(str, there))} of {self.outcome}; ours would be no row of its table"
            )
        if unknown := sorted(set(seeds) - set(self.replicates)):
            raise UserError(
                f"--seeds {' '.join(map(str, unknown))}: of {self.outcome} the benchmark has the replicates {', '.join(map(str, self.replicates))}, "
                "which are the seeds; leave --seeds out for all of them"
            )

    def split(self, examples: Examples, shots: int, replicate: int) -> dict[str, np.ndarray]:
        """{train, valid, test: rows of examples.table}; of few shots train and valid are what is drawn, an example as often as it is."""
        parts = {part: self.rows(examples, self.table[(self.table.shots == WHOLE) & (self.table.part == part)]) for part in contract.SPLITS}
        if shots != WHOLE:
            drawn = self.drawn[(self.drawn.shots == shots) & (self.drawn.replicate == replicate)]
            parts |= {part: self.rows(examples, drawn[drawn.part == part]) for part in ("train", "valid")}
        return parts

    def rows(self, examples: Examples, chosen: pd.DataFrame) -> np.ndarray:
        """The rows of examples.table that are the `chosen` of this table, in its own order."""
        keys = ["subject_id", "prediction_time"]
        own = examples.labels[keys].assign(place=np.arange(len(examples)))
        found = own.merge(chosen[[*keys, "boolean_value", "copies"]].astype({"prediction_time": own.prediction_time.dtype}), on=keys)
        truth = examples.truth[found.place.to_numpy(), 0] == 1
        if len(found) != len(chosen) or (truth != found.boolean_value.to_numpy(dtype=bool)).any():
            raise UserError(
                f"{contract.display_path(PREDEFINED_SPLITS.at(hospital=self.hospital, outcome=self.outcome))} is not of the labels of {self.outcome} that are "
                f"there: python preprocessing/labels.py --hospital {self.hospital} --outcome {self.outcome.replace('ehrshot_', 'ehrshot:', 1)} makes both anew"
            )
        found = found.sort_values("place")
        return examples.table[np.repeat(found.place.to_numpy(), found.copies.to_numpy())]


def hospitals_with_predefined_splits(outcome: str) -> list[str]:
    """The hospitals at which a benchmark's labels of `outcome` were written."""
    return sorted(path.parts[-3] for path in (contract.ROOT / "usedata").glob(f"*/given_parts/{outcome}"))


def find_hospital(outcome: str, home: str) -> str:
    """The hospital at which a benchmark's parts of the outcome are: home, if it has them; "" of another outcome."""
    there = hospitals_with_predefined_splits(outcome)
    if len(there) > 1 and home not in there:
        raise UserError(
            f"{outcome} is labelled at {' and '.join(there)}: make one of them home by --set cohort.home={there[0]}, or remove the other's labels"
        )
    return home if home in there else "".join(there)


def find_tasks(text: str) -> list[str]:
    """The outcomes that `ehrshot:NAME` names, or the name of one in results, those that are labelled; none of another text."""
    task = ehrshot.task_of(text)
    found = ehrshot.find_tasks(text) if text.startswith(ehrshot.PREFIX) else [task] if task else []
    there = [task.outcome for task in found if hospitals_with_predefined_splits(task.outcome)]
    if found and not there:
        raise UserError(
            f"--outcome {text} is labelled nowhere: python preprocessing/labels.py --hospital ehrshot --outcome {found[0].asked_as} does it (ehrshot: "
            "the hospital that has the benchmark's files)"
        )
    if len(there) < len(found):
        print_line(f"{text}: not labelled are {', '.join(task.outcome for task in found if task.outcome not in there)}")
    return there
