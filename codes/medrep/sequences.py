"""Trajectories as memory-mapped arrays, and the slices of them that models read."""
import numpy as np

EVENT_ARRAYS = {"token": np.int32, "domain": np.int8, "age": np.int16, "time": np.int64, "visit_rank": np.int32, "record_rank": np.int32}
"""One entry an event, sorted by person, time, domain, concept id (then decile). token: number in the hospital's
vocabulary; domain: place in contract.DOMAINS + 1; age: whole years at the event (its year minus the year of birth);
time: seconds since 1970; visit_rank: 1, 2, ... by visit start within the person; record_rank: 1, 2, ... by distinct
time within the visit. File {name}.npy."""

PERSON_ARRAYS = {"person_id": np.int64, "sex": np.int8, "split": np.int8, "start": np.int64, "stop": np.int64}
"""One entry a person, sorted by person_id. sex: vocabulary.SEX_TOKEN; split: place in contract.SPLITS; their events
are [start, stop). File person_{name}.npy, but person_id.npy."""
