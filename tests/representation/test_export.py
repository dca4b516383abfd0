"""Vectors carried elsewhere: what is in the file, and that it comes back."""
import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from medrep import concepts as shared
from medrep import contract
from representation import concepts, definitions, description, edges, encoder, export, graph

IDS = ["1", "2", "10", "11", "20", "20_0", "20_7", "30"]


@pytest.fixture
def vectors(athena):
    shared.write_index(IDS)
    random = np.random.default_rng(0)
    array = (random.normal(size=(len(IDS), 16)) * 10.0 ** random.integers(-3, 3, (len(IDS), 1))).astype(np.float32)
    array[3] = 0
    contract.write_array(contract.concept_array_file("medrep"), array)
    return athena, array


def ids_in(file):
    return [f"{plain}_{decile}" if decile >= 0 else str(plain) for plain, decile in load_file(file)["ids"].tolist()]


@pytest.mark.parametrize("which, expected", [
    (["--vocabulary", "RxNorm"], ["10", "11"]), (["--vocabulary", "RxNorm", "LOINC"], ["10", "11", "20", "20_0", "20_7"]),
    (["--hospital", "mimic"], ["2", "11", "20", "20_7", "30"]), (["--ids", "LIST"], ["1", "20_0"])])
def test_subsets(vectors, tmp_path, which, expected, capsys):
    (tmp_path / "list").write_text("concept_id\n20_0\n1\n4711\n")
    export.main([str(tmp_path / "out.safetensors"), *[str(tmp_path / "list") if w == "LIST" else w for w in which]])
    assert ids_in(tmp_path / "out.safetensors") == expected
    assert np.array_equal(load_file(tmp_path / "out.safetensors")["vectors"], vectors[1][[IDS.index(i) for i in expected]])
    assert ("1 of the 3 wanted concepts have no vector, such as 4711" in capsys.readouterr().out) == ("--ids" in which)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_what_is_exported_comes_back_as_published_files(vectors, tmp_path, monkeypatch, dtype):
    root, array = vectors
    file = tmp_path / "out.safetensors"
    export.main([str(file), "--vocabulary", "SNOMED", "LOINC", "RxNorm", "--dtype", dtype])
    facts = json.loads((tmp_path / "out.safetensors.json").read_text())
    assert facts["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest() and facts["concepts"] == len(IDS)
    assert load_file(file)["vectors"].dtype == dtype
    monkeypatch.setattr(contract, "ROOT", tmp_path / "elsewhere")
    export.main(["--import", str(file)])
    assert shared.read_index().to_pylist() == IDS and shared.published() == ["medrep"]
    found = np.array(shared.open_array("medrep"))
    allowed = {"float32": 0, "float16": np.abs(array) * 2**-11 + 1e-7, "int8": np.abs(array).max(axis=1, keepdims=True) / 127 / 2 * 1.001}[dtype]
    assert found.dtype == np.float32 and (np.abs(found - array) <= allowed).all()
    with pytest.raises(SystemExit, match="medrep.npy is there already"):
        export.main(["--import", str(file)])


def test_a_file_that_was_changed_or_lacks_its_manifest_is_refused(vectors, tmp_path):
    file = tmp_path / "out.safetensors"
    export.main([str(file), "--vocabulary", "SNOMED"])
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SystemExit, match="is not the file whose sha256 is in out.safetensors.json"):
        export.main(["--import", str(file)])
    (tmp_path / "out.safetensors.json").unlink()
    with pytest.raises(SystemExit, match="out.safetensors.json is missing: a file and its .json are carried together"):
        export.main(["--import", str(file)])


def test_the_manifest_says_release_writer_encoder_and_settings(athena, tmp_path):
    (athena / "data" / "concepts" / "VOCABULARY.csv").write_text(
        "vocabulary_id\tvocabulary_name\tvocabulary_reference\tvocabulary_version\tvocabulary_concept_id\n"
        "SNOMED\tSNOMED\tx\t2023\t1\nNone\tOMOP Standardized Vocabularies\tx\tv5.0 31-AUG-23\t44819096\n")
    for stage in (concepts, definitions, encoder, description, edges, graph):
        stage.main([])
    export.main([str(tmp_path / "out.safetensors"), "--hospital", "mimic"])
    facts = json.loads((tmp_path / "out.safetensors.json").read_text())
    assert (facts["release"], facts["writer"], facts["encoder"]) == ("v5.0 31-AUG-23", "template", "none")
    assert facts["settings"]["concept_representation_medrep.npy"]["epochs"] == 3 and facts["settings"]["encoder"]["hidden_size"] == 16


@pytest.mark.parametrize("arguments, words", [
    (["--vocabulary", "ICD11"], "no concepts of ICD11; it has some of LOINC, RxNorm, SNOMED"), (["--ids", "/nowhere"], "--ids /nowhere is not there"),
    (["--hospital", "seoul"], "usedata/seoul/vocabulary.json is missing")])
def test_mistakes_are_named(vectors, tmp_path, arguments, words):
    with pytest.raises(SystemExit, match=words):
        export.main([str(tmp_path / "out.safetensors"), *arguments])
    assert not (tmp_path / "out.safetensors").exists()
