"""What the experiments' guide shows in Python runs as it stands."""

import re

import torch

from experiments import pretrain
from medrep import contract
from medrep.patients import sequences
from medrep.vocabulary import token_vocabulary


def test_a_patient_is_embedded_as_the_guide_shows(small_hospital):
    small_hospital("mimic", persons=30)
    pretrain.main(
        [
            "--rep-type",
            "none",
            "--gpu-devices",
            "cpu",
            "--report-to",
            "none",
            "--set",
            "model.hidden_size=16",
            "--set",
            "model.num_heads=2",
            "--set",
            "model.num_layers=2",
            "--set",
            "model.max_length=32",
            "--set",
            "pretraining.epochs=1",
        ]
    )
    (code,) = re.findall(r"```python\n(.*?)```", (contract.REPOSITORY / "codes" / "experiments" / "README.md").read_text(), flags=re.S)
    assert code.count('"medrep"') == 1
    found = {}
    exec(code.replace('"medrep"', '"none"'), found)
    patients, words = sequences.Trajectories("mimic"), token_vocabulary.load_hospital_vocabulary("mimic")
    assert found["patient"].shape == (1, 16) and torch.isfinite(found["patient"]).all()
    # the model was pretrained on train persons' tokens; one token more at the end changes the vector, as it must
    row, start, stop = found["newest"][0]
    assert row == 0 and stop - start == patients.person_stop[0] - patients.person_start[0] and len(found["reads"].token_map) == len(words)
    shorter = patients.pack(found["newest"] - [0, 0, 1], found["reads"].token_map, found["reads"].value_map)
    shorter = {name: torch.from_numpy(values) for name, values in shorter.items()}
    with torch.inference_mode():
        other = found["model"].encoder(**found["to_tensors"](shorter, "cpu"))[0]
    assert not torch.allclose(found["patient"][0], other)
