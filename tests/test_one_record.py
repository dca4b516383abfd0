"""One measurement from CSV to prediction and its rating: person 7's HbA1c of 7.9 % on 2150-03-04 at 09:20.

A tiny hospital of 40 persons around it, the real stages in their order, and after each the place where the row is.
"""

import json
import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from experiments import finetune, medgemma, pretrain
from medrep import contract
from medrep.patients import sequences
from medrep.vectors import concept_vectors
from medrep.vocabulary import token_vocabulary
from preprocessing import all_stages
from representation import concepts, definitions, description, edges, encoder, graph

from .medrep.llm.model_server import ModelServer

HBA1C, FEVER, ASPIRIN = 3004410, 437663, 1112807
SMALL = ["--set", "model.hidden_size=16", "--set", "model.num_heads=2", "--set", "model.num_layers=2", "--set", "model.intermediate_size=16"]
DEFAULT_VECTORS = ["--set", "encoder.model=minilm", "--set", "encoder.training=none", "--set", "graph.objective=links"]


def write_data(data):
    """Person 7 and 39 others; each has a stay of two days, and HbA1c before and in it; every fourth dies in it."""
    people, visits, conditions, drugs, measurements, deaths = [], [], [], [], [], []
    for person in range(1, 41):
        people.append((person, 8507 if person % 2 else 8532, 2086, f"src-{person}"))
        visits.append((person, person, 9201, "2150-03-04", "2150-03-04 08:00:00", "2150-03-06", "2150-03-06 18:00:00"))
        values = [(f"2150-01-{day:02d} 09:20:00", 4 + (person + day) % 40 / 10) for day in range(1, 11)]
        values.append(("2150-03-04 09:20:00", 7.9 if person == 7 else 4 + person % 40 / 10))
        values.append(("2150-03-05 09:20:00", 5.0))  # after the prediction time
        measurements += [(person, HBA1C, when[:10], when, value, 8554, "%") for when, value in values]
        conditions += [(person, FEVER, "2150-03-04", "2150-03-04 08:30:00", 32817)] * 2
        drugs.append((person, ASPIRIN, "2150-03-04", "2150-03-04 08:45:00"))
        if person % 4 == 0:
            deaths.append((person, "2150-03-06", "2150-03-06 18:00:00"))
    tables = {
        "person": (people, "person_id gender_concept_id year_of_birth person_source_value"),
        "visit_occurrence": (
            visits,
            "visit_occurrence_id person_id visit_concept_id visit_start_date visit_start_datetime visit_end_date visit_end_datetime",
        ),
        "condition_occurrence": (
            conditions,
            "person_id condition_concept_id condition_start_date condition_start_datetime condition_type_concept_id",
        ),
        "drug_exposure": (drugs, "person_id drug_concept_id drug_exposure_start_date drug_exposure_start_datetime"),
        "measurement": (
            measurements,
            "person_id measurement_concept_id measurement_date measurement_datetime value_as_number unit_concept_id unit_source_value",
        ),
        "procedure_occurrence": ([(7, 4107731, "2150-02-01")], "person_id procedure_concept_id procedure_date"),
        "death": (deaths, "person_id death_date death_datetime"),
    }
    for hospital in ("mimic", "ehrshot"):
        (data / hospital).mkdir(parents=True)
        for table, (rows, columns) in tables.items():
            pd.DataFrame(rows, columns=columns.split()).to_csv(data / hospital / f"{table}.csv", index=False)
    # MIMIC's own settings know its admissions by this pattern
    file = data / "mimic" / "visit_occurrence.csv"
    pd.read_csv(file).assign(visit_source_value=lambda t: t.person_id.astype(str) + "|" + t.visit_occurrence_id.astype(str)).to_csv(file, index=False)
    (data / "concepts").mkdir()
    names = [
        (HBA1C, "Hemoglobin A1c in blood", "Measurement", "LOINC", "Lab Test"),
        (FEVER, "Fever", "Condition", "SNOMED", "Clinical Finding"),
        (ASPIRIN, "aspirin", "Drug", "RxNorm", "Ingredient"),
        (4107731, "Chest X-ray", "Procedure", "SNOMED", "Procedure"),
        (3000, "Hemoglobin measurement", "Measurement", "LOINC", "Lab Test"),
    ]
    pd.DataFrame(
        [(i, n, d, v, c, "S", f"code{i}", "19700101", "20991231", "") for i, n, d, v, c in names],
        columns=(
            "concept_id concept_name domain_id vocabulary_id concept_class_id standard_concept concept_code "
            "valid_start_date valid_end_date invalid_reason"
        ).split(),
    ).to_csv(data / "concepts" / "CONCEPT.csv", sep="\t", index=False)
    pd.DataFrame(
        [(HBA1C, 3000, "Is a", "19700101", "20991231", ""), (3000, HBA1C, "Subsumes", "19700101", "20991231", "")],
        columns=("concept_id_1 concept_id_2 relationship_id valid_start_date valid_end_date invalid_reason").split(),
    ).to_csv(data / "concepts" / "CONCEPT_RELATIONSHIP.csv", sep="\t", index=False)


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    root = tmp_path_factory.mktemp("one_record")
    write_data(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        patch.setenv("MEDREP_CONFIGS", "configs/demo")
        all_stages.main(["--hospitals", "mimic", "ehrshot"])
        for stage, *own in ((concepts,), (definitions,), (encoder,), (description,), (description, "--text", "name"), (edges,), (graph,)):
            stage.main([*own, *DEFAULT_VECTORS, *SMALL])
        pretrain.main(["--gpu-devices", "cpu", "--set", "pretraining.epochs=1", *SMALL])
        finetune.main(["-d", "cpu", "--seeds", "100", "--extract-attention-score", "--set", "finetuning.epochs=1", *SMALL])
    return root


def test_one_measurement_from_csv_to_prediction_and_rating(road, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", road)
    usedata = road / "usedata" / "mimic"
    moment = pd.Timestamp("2150-03-04 09:20")

    # records: kept, with its value, unit and visit
    records = pd.read_parquet(usedata / "records")
    (record,) = records[(records.person_id == 7) & (records.concept_id == HBA1C) & (records.time == moment)].to_dict("records")
    assert (record["domain"], record["value"], record["unit"], record["visit_id"]) == ("measurement", 7.9, "8554", 7)

    # deciles: how many of the inner edges, fitted on train persons, lie strictly below 7.9
    persons = pd.read_parquet(usedata / "persons").set_index("person_id")
    train = records[(records.concept_id == HBA1C) & records.person_id.isin(persons.index[persons.split == "train"])].value
    (edges,) = pd.read_parquet(usedata / "deciles").to_dict("records")
    assert edges["n"] == len(train) and [edges[f"edge_{i}"] for i in range(11)] == pytest.approx(np.quantile(train, np.arange(11) / 10))
    decile = sum(edges[f"edge_{i}"] < 7.9 for i in range(1, 10))
    token = f"{HBA1C}_{decile}"

    # trajectories: that token, at 64, in the stay (after ten days of outpatient visits of their own), third moment of it
    trajectories, words = sequences.Trajectories("mimic"), token_vocabulary.load_hospital_vocabulary("mimic")
    (row,) = trajectories.find_rows(np.array([7]))
    events = range(trajectories.person_start[row], trajectories.person_stop[row])
    (event,) = [i for i in events if trajectories.time[i] == moment.timestamp()]
    assert words.tokens[trajectories.token[event]] == token
    assert (trajectories.age[event], trajectories.visit_rank[event], trajectories.record_rank[event]) == (64, 12, 3)

    # labels: predicted a day after admission; person 7 lives
    labels = pd.read_parquet(usedata / "labels" / "MT").set_index("subject_id")
    assert labels.loc[7, "prediction_time"] == pd.Timestamp("2150-03-05 08:00") and not labels.loc[7, "boolean_value"]
    assert labels.boolean_value.sum() == 10

    # the row is before it and so may be seen; the next day's is not
    (example,) = trajectories.slices_before(np.array([row]), np.array([labels.loc[7, "prediction_time"].timestamp()], dtype=np.int64), 512)
    assert example[1] <= event < example[2]
    assert all(trajectories.time[i] < labels.loc[7, "prediction_time"].timestamp() for i in range(example[1], example[2]))

    # representation: a definition of that decile and a vector of its own
    definitions = pd.read_parquet(road / "usedata" / "representation" / "definitions").set_index("concept_id")
    assert "Hemoglobin A1c" in definitions.loc[token, "text"]
    vectors, how = concept_vectors.gather_vectors([token], "medrep")
    assert how.tolist() == ["own"] and vectors.shape == (1, 256) and np.abs(vectors).sum() > 0

    # finetune: a probability for every example tested, attention on the token
    folder = contract.finetuning_folder("mimic", "behrt", "medrep", "MT", 100)
    assert pq.read_table(folder / "predictions_ehrshot.parquet").num_rows == 40
    assert json.loads((folder / "metrics_ehrshot.json").read_text())[0]["n"] == 40
    assert token in pd.read_csv(folder / "features_ehrshot.csv", dtype={"token": str}).token.tolist()
    attention = pd.read_parquet(folder / "attention_ehrshot.parquet")
    assert len(attention[(attention.subject_id == 7) & (attention.token == token)]) >= 1

    # medgemma: a language model, here a server of our own that finds all HbA1c important, rates it by its name
    name = f"Hemoglobin A1c in blood ({token_vocabulary.ORDINALS[decile]} decile)"

    def opinion(prompt):
        listed = re.findall(r"^(\d+)\. (.*)$", prompt, re.MULTILINE)
        return json.dumps({number: "High" if name.startswith("Hemoglobin A1c") else "Low" for number, name in listed})

    with ModelServer() as server:
        server.named, server.behave = (lambda prompt: prompt), (lambda prompt, times: opinion(prompt))
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        medgemma.main(["--ex", "ehrshot", "--base-url", server.url, "--features", "100", *SMALL])
        assert any(name in body["messages"][1]["content"] for body in server.requests)
    rated = pd.read_csv(contract.rating_files(folder, "ehrshot")["ratings"], dtype={"token": str}).set_index("token")
    assert (rated.loc[token, "name"], rated.loc[token, "rating"]) == (name, "High") and set(rated.rating) == {"High", "Low"}
