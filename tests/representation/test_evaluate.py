"""The stage that says what vectors know; its measures are tested in tests/medrep/vectors."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from medrep import contract, storage
from medrep.vectors import concept_index, concept_pairs
from medrep.vectors import concept_vectors as shared
from medrep.vocabulary import holdout
from representation import concepts, definitions, description, edges, encoder, evaluate, graph, random_vectors


def test_the_stage_writes_one_table_and_two_maps_over_all_arms(athena, monkeypatch, capsys):
    monkeypatch.setattr(holdout, "held_out_mask", lambda a, b, share=0.05: (a + b) % 2 == 1)
    monkeypatch.setattr(concept_pairs, "MIN_PAIRS", 1)
    with open(contract.data_folder("concepts") / "CONCEPT_RELATIONSHIP.csv", "a") as file:
        file.write("50\t1\tIs a\t19700101\t20991231\t\n")  # so that 1 has somebody to be mistaken for
    concepts.main(["--scope", "all"])
    for stage in (definitions, encoder, description, edges, graph, random_vectors):
        stage.main([])
    description.main(["--text", "name"])
    np.save(contract.concept_array_file("mine"), np.array(shared.open_array("random")))
    evaluate.main([])
    table = pd.read_csv(contract.quality_file())
    assert list(table.arm.unique()) == ["random", "name", "description", "medrep", "mine"]
    assert set(table.measure) == {
        "link_auroc",
        "retrieval_mrr",
        "retrieval_recall_at_10",
        "neighbours_same_domain",
        "neighbours_share_parent",
        "decile_order",
    }
    assert (table.low <= table.high).all() and table[table.measure != "decile_order"].value.between(0, 1).all()
    mine, random = (table[table.arm == arm].drop(columns="arm").reset_index(drop=True) for arm in ("mine", "random"))
    assert mine.equals(random)
    for method in ("pca", "tsne"):
        assert contract.map_file(method).read_bytes().startswith(b"\x89PNG")
    assert "unless graph.py left them out" not in capsys.readouterr().out  # edges.py did
    before = contract.quality_file().read_bytes()
    evaluate.main([])
    assert "quality.csv is up to date" in capsys.readouterr().out
    monkeypatch.setenv("MEDREP_FRESH", "1")
    evaluate.main([])
    assert contract.quality_file().read_bytes() == before
    monkeypatch.delenv("MEDREP_FRESH")
    random = np.array(shared.open_array("random"))
    storage.stamp_path(contract.concept_array_file("medrep")).unlink()
    storage.write_array(contract.concept_array_file("medrep"), random)  # another's over ours
    np.save(athena / "own.npy", random)
    evaluate.main(["--own", str(athena / "own.npy")])
    table = pd.read_csv(contract.quality_file())
    medrep, own = (table[table.arm == arm].drop(columns="arm").reset_index(drop=True) for arm in ("medrep", "own"))
    assert list(table.arm.unique()) == ["random", "name", "description", "medrep", "mine", "own"] and own.equals(medrep)


def test_held_out_edges_that_the_graph_has_seen_are_said(athena, capsys):
    concept_index.write_concept_index(["1", "2"])
    storage.write_array(contract.concept_array_file("medrep"), np.ones((2, 16), dtype=np.float32))
    storage.write_array(contract.edges_file(), np.array([[1, 0], [0, 1]]))
    evaluate.main([])
    assert "edges.npy has 2 held-out edges among its first 2: unless graph.py left them out" in capsys.readouterr().out


def test_what_can_not_be_judged_is_said(athena, capsys):
    with pytest.raises(SystemExit, match=r"has no concept_representation_\*.npy; representation/run.sh writes them"):
        evaluate.main([])
    concept_index.write_concept_index(["1", "3"])
    array = np.ones((2, 16), dtype=np.float32)
    storage.write_array(contract.concept_array_file("medrep"), array)
    evaluate.main([])
    assert "no held-out edge joins two concepts of the index" in capsys.readouterr().out
    array[1] = np.nan
    storage.write_array(contract.concept_array_file("medrep"), array)
    with pytest.raises(SystemExit, match="medrep.npy has NaN or infinite numbers in the vectors of 1 concepts, such as 3"):
        evaluate.main([])
    concept_index.write_concept_index(["901", "903"])
    storage.write_array(contract.concept_array_file("medrep"), np.ones((2, 16), dtype=np.float32))
    with pytest.raises(SystemExit, match="CONCEPT has none of the concepts of usedata/representation/concept_idx.csv"):
        evaluate.main([])


def test_pairs_that_people_rated_judge_the_arms_and_the_text_encoder(athena, monkeypatch, capsys):
    monkeypatch.setattr(concept_pairs, "MIN_PAIRS", 3)
    rated = athena / "mine.csv"
    rated.write_text(
        "term1,term2,mean\nPneumonia,viral pneumonia,4\naspirin,Pneumonia,1\nInfection of lung,disorder of lung,3\nPneumonia,Far away,2\nflu,ASPIRIN,1\n"
    )
    with pytest.raises(SystemExit, match="representation/run.sh writes them"):
        evaluate.main(["--similarity", str(rated)])
    concepts.main(["--scope", "all"])
    for stage in (definitions, encoder, random_vectors):
        stage.main([])
    description.main(["--text", "name"])
    evaluate.main(["--similarity", str(rated)])
    assert "mine: 5 rated pairs; 4 of two concepts of the index, 1 not found, 0 of one concept" in capsys.readouterr().out
    table = pd.read_csv(contract.quality_file())
    table = table[table.measure == "similarity_rho"]
    assert [tuple(row) for row in table[["space", "arm", "kind", "n"]].values] == [
        ("as_read", "random", "mine", 4),
        ("as_read", "name", "mine", 4),
        ("raw", "random", "mine", 4),
        ("raw", "name", "mine", 4),
        ("raw", "encoder", "mine", 5),
    ]
    array = shared.open_array("name").astype(np.float64)
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    row = {name: i for i, name in enumerate(concept_index.read_concept_index().to_pylist())}
    cosines = [unit[row[a]] @ unit[row[b]] for a, b in (("2", "3"), ("10", "2"), ("2", "1"), ("2", "50"))]
    assert table.value.iloc[3] == pytest.approx(spearmanr([4, 1, 3, 2], np.round(cosines, 6)).statistic, abs=1e-4)
    evaluate.main(["--similarity", str(rated)])
    assert "quality.csv is up to date" in capsys.readouterr().out
    evaluate.main([])
    assert "similarity_rho" not in contract.quality_file().read_text()
    assert (
        "results/representation/quality.csv loses its similarity_rho of mine: --similarity does not name these this time" in capsys.readouterr().out
    )
    storage.remove_path(contract.encoder_folder())
    evaluate.main(["--similarity", str(rated)])
    assert "usedata/representation/encoder is missing: the text encoder itself is not judged" in capsys.readouterr().out
    assert "encoder" not in set(pd.read_csv(contract.quality_file()).arm)


def test_a_text_encoder_alone_is_judged_before_there_are_vectors(many_texts, root, capsys):
    rated = root / "mine.csv"
    rated.write_text(
        "rating,term1,term2\n" + "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(zip(many_texts[:30], many_texts[30:], strict=False)))
    )
    ids_only = root / "ids.csv"
    ids_only.write_text("rating,concept_id_1,concept_id_2\n1,2,3\n")
    contract.concept_index_file().unlink()
    evaluate.main(["--similarity", str(rated), str(ids_only)])
    table = pd.read_csv(contract.quality_file())
    assert [tuple(row) for row in table[["space", "arm", "measure", "kind", "n"]].values] == [("raw", "encoder", "similarity_rho", "mine", 30)]
    assert "ids has no terms, so that it does not judge the text encoder" in capsys.readouterr().out


def test_a_decile_with_a_number_that_is_none_is_refused(athena):
    ids = ["20", *(f"20_{i}" for i in range(10))]
    concept_index.write_concept_index(ids)
    for bad in (np.nan, np.inf):
        array = np.random.default_rng(0).normal(size=(11, 16)).astype(np.float32)
        array[8, 3] = bad
        storage.write_array(contract.concept_array_file("medrep"), array)
        with pytest.raises(SystemExit, match="medrep.npy has NaN or infinite numbers in the vectors of 1 concepts, such as 20_7"):
            evaluate.main([])
        with pytest.raises(SystemExit, match="such as 20_7"):
            shared.nearest_neighbours(array[:1], "medrep", 3)
