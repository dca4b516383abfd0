"""Whether test persons were seen before: by persons, not by names of hospitals, and along a chain of pretrained models."""

from types import SimpleNamespace

import ibis
import numpy as np
import pytest
import yaml

from medrep import contract, stamps, storage
from medrep.cdm.engine import connect
from medrep.evaluation import leakage
from medrep.patients import sequences
from medrep.patients.examples import Examples
from medrep.tables import DECILES, LABELS, PERSONS
from medrep.vectors import markers

from ...conftest import write_trajectories

SPLIT = {name: code for code, name in enumerate(contract.SPLITS)}


def write_persons(hospital, born=1950):
    ids = np.asarray(sequences.Trajectories(hospital).person_id).tolist()
    rows = [(person, "MF"[i % 2], None, born + i % 40, "train") for i, person in enumerate(ids)]
    PERSONS.write(connect(), ibis.memtable(rows, schema=PERSONS.schema), hospital=hospital)


def set_split(hospital, codes):
    storage.write_array(sequences.array_file("split", hospital), np.asarray(codes, np.int8))


@pytest.fixture
def tested(root):
    """Examples of ehrshot, of whose 30 persons a third each is train, valid and test; and the rows that are tested."""
    write_trajectories("ehrshot", persons=30)
    write_persons("ehrshot")
    trajectories = sequences.Trajectories("ehrshot")
    rows = [(int(person), np.datetime64("1972-01-01", "us").item(), i % 2 == 0) for i, person in enumerate(trajectories.person_id)]
    LABELS.write(connect(), ibis.memtable(rows, schema=LABELS.schema), hospital="ehrshot", outcome="X")
    examples = Examples("ehrshot", "X", 32)
    return SimpleNamespace(examples=examples, rows=examples.of_split("test"))


def write_run(name, hospital, start=None, trajectories=True):
    """A pretrained model's config.yaml."""
    folder = contract.pretraining_folder(hospital, name, "none")
    inputs = [contract.trajectories_folder(hospital)] * trajectories + ([start / "config.yaml"] if start else [])
    content = {
        "run": {"model": name, **({"from": contract.display_path(start)} if start else {})},
        "inputs": {contract.display_path(path): stamps.fingerprint(path) for path in inputs},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def find(tested, pretrained=None, home="ehrshot", rep="none"):
    return leakage.find_leakage(pretrained, rep, home, tested.examples, tested.rows)


def test_a_model_of_the_train_and_valid_persons_saw_nobody_who_is_tested(tested):
    assert find(tested, write_run("behrt", "ehrshot")) == "" and find(tested) == "" and find(tested, rep="") == ""


def test_other_splits_before_the_labels_are_said_with_the_persons(tested):
    run = write_run("behrt", "ehrshot")
    codes = np.asarray(sequences.Trajectories("ehrshot").person_split).copy()
    codes[np.flatnonzero(codes == SPLIT["test"])[:4]] = [0, 0, 1, 1]
    set_split("ehrshot", codes)
    said = find(tested, run)
    assert "the deciles and codes of ehrshot saw 2 of the 10 test persons" in said  # not the valid persons
    assert "whom the pretraining of results/ehrshot/pretraining/behrt_none saw can't be told" in said
    assert "the pretraining of results/ehrshot/pretraining/behrt_none saw 4 of the 10" in find(tested, write_run("behrt", "ehrshot"))
    assert "the codes that are known" not in find(tested, rep="")  # counts know no codes from before


def test_deciles_as_published_have_seen_everyone(tested):
    for persons, said in (("train", ""), ("all", "the deciles and codes of ehrshot saw 10 of the 10 test persons")):
        DECILES.write(connect(), ibis.memtable([], schema=DECILES.schema), hospital="ehrshot")
        stamps.Stamp(DECILES.at(hospital="ehrshot"), settings={"decile_persons": persons}).record()
        assert find(tested) == said


def test_the_same_persons_under_another_hospitals_name_are_found_and_strangers_of_the_same_ids_are_not(tested):
    write_trajectories("copy", persons=30)  # the same ids
    write_persons("copy")
    set_split("copy", [0] * 30)
    run = write_run("behrt", "copy")
    assert find(tested, run, home="copy").split("; ") == [
        "the pretraining of results/copy/pretraining/behrt_none saw 10 of the 10 test persons",
        "the codes that are known saw 10 of the 10 test persons",
    ]
    write_persons("copy", born=1900)
    assert find(tested, run, home="copy") == ""


def test_what_a_model_goes_on_from_has_seen_counts_and_what_is_gone_is_said(tested):
    write_trajectories("copy", persons=30)
    write_persons("copy")
    set_split("copy", [0] * 30)
    first = write_run("behrt", "copy")
    second = write_run("behrt", "ehrshot", start=first)
    assert find(tested, second) == "the pretraining of results/copy/pretraining/behrt_none saw 10 of the 10 test persons"
    set_split("copy", [2] * 30)
    assert find(tested, write_run("behrt", "ehrshot", start=write_run("behrt", "copy"))) == ""
    third = write_run("third", "ehrshot", start=second)
    assert find(tested, third) == ""
    (first / "config.yaml").write_text((first / "config.yaml").read_text() + "\n")  # made anew since
    unknown = "whom the pretraining of results/copy/pretraining/behrt_none saw can't be told: what it was made from is not there any more"
    assert find(tested, third) == unknown
    (first / "config.yaml").unlink()
    assert find(tested, third) == unknown
    assert "third_none saw can't be told" in find(tested, write_run("third", "ehrshot", trajectories=False))


def test_models_that_go_on_from_one_another_end_the_search(tested):
    first = write_run("behrt", "ehrshot")
    second = write_run("other", "ehrshot", start=first)
    first = write_run("behrt", "ehrshot", start=second)
    write_run("other", "ehrshot", start=first)
    assert "can't be told" in find(tested, first)


def test_vectors_that_were_learned_from_patients_count(tested):
    write_trajectories("copy", persons=30)
    write_persons("copy")
    set_split("copy", [0] * 30)
    file = contract.concept_array_file("keep")
    with markers.write_marked(file) as part, open(part, "wb") as out:
        np.save(out, np.zeros((3, 4), np.float32))
    stamps.Stamp(file, inputs=[contract.trajectories_folder("copy")]).record()
    assert find(tested, rep="keep") == "the vectors of keep saw 10 of the 10 test persons"
    stamps.Stamp(file, inputs=[contract.trajectories_folder("ehrshot")]).record()
    assert find(tested, rep="keep") == ""
