"""Vectors carried elsewhere: what is in the file, and that it comes back."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medrep import contract, storage
from medrep.publishing import contents
from medrep.vectors import concept_index, exchange, published
from medrep.vectors import concept_vectors as shared
from representation import concepts, definitions, description, edges, encoder, export, graph, random_vectors

IDS = ["1", "2", "10", "11", "20", "20_0", "20_7", "30"]


@pytest.fixture
def vectors(athena):
    concept_index.write_concept_index(IDS)
    random = np.random.default_rng(0)
    array = (random.normal(size=(len(IDS), 16)) * 10.0 ** random.integers(-3, 3, (len(IDS), 1))).astype(np.float32)
    array[3] = 0
    storage.write_array(contract.concept_array_file("medrep"), array)
    return athena, array


def ids_in(file):
    return [f"{plain}_{decile}" if decile >= 0 else str(plain) for plain, decile in load_file(file)["ids"].tolist()]


@pytest.mark.parametrize(
    "which, expected",
    [
        (["--vocabulary", "RxNorm"], ["10", "11"]),
        (["--vocabulary", "RxNorm", "LOINC"], ["10", "11", "20", "20_0", "20_7"]),
        (["--hospital", "mimic"], ["2", "11", "20", "20_7", "30"]),
        (["--ids", "LIST"], ["1", "20_0"]),
    ],
)
def test_subsets(vectors, tmp_path, which, expected, capsys):
    (tmp_path / "list").write_text("concept_id\n20_0\n1\n4711\n")
    export.main([str(tmp_path / "out.safetensors"), *[str(tmp_path / "list") if w == "LIST" else w for w in which]])
    assert ids_in(tmp_path / "out.safetensors") == expected
    assert (tmp_path / "out.safetensors").stat().st_mode == (tmp_path / "list").stat().st_mode  # no more private than other files
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
    assert concept_index.read_concept_index().to_pylist() == IDS and published.published_representations() == ["medrep"]
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


@pytest.fixture
def elsewhere(vectors, tmp_path, monkeypatch):
    """An exported file, and an empty root to import it into."""
    file = tmp_path / "out.safetensors"
    export.main([str(file), "--vocabulary", "SNOMED", "--dtype", "int8"])
    monkeypatch.setattr(contract, "ROOT", tmp_path / "elsewhere")
    return file


def forge(file, tensors=None, inside=None, **facts):
    """Both files anew with these facts and a right sum, as whoever sends them may do."""
    said = json.loads(export.manifest_path(file).read_text()) | facts
    said.pop("sha256")
    save_file(tensors or load_file(file), file, metadata={"manifest": json.dumps(said) if inside is None else inside})
    export.manifest_path(file).write_text(json.dumps({"sha256": storage.sha256_of(file), **said}))


def refuse(file, words):
    before = sorted(file.parent.rglob("*"))
    with pytest.raises(SystemExit, match=words) as ended:
        export.main(["--import", str(file)])
    assert "\n" not in str(ended.value) and sorted(file.parent.rglob("*")) == before


@pytest.mark.parametrize("rep", ["../../../evil", "{folder}/evil.npy", "evil.npy", ".npy", "a/b", "", "a\nb", "\ud800", "e" * 250])
def test_a_rep_that_is_no_bare_name_is_refused(elsewhere, rep):
    forge(elsewhere, rep=rep.replace("{folder}", str(elsewhere.parent)))
    refuse(elsewhere, "which is no name of a representation")


def test_a_user_s_own_name_comes_back(elsewhere):
    forge(elsewhere, rep="my vectors, 2.0 (ü)")
    export.main(["--import", str(elsewhere)])
    assert published.published_representations() == ["my vectors, 2.0 (ü)"]


@pytest.mark.parametrize("text", [b"{", b"[]", b"null", b"\xff\xfe\x00", b"", b'"rep"'])
def test_a_manifest_that_is_none_is_refused(elsewhere, text):
    export.manifest_path(elsewhere).write_bytes(text)
    refuse(elsewhere, "out.safetensors.json is no manifest of export.py")


@pytest.mark.parametrize(
    "name, value",
    [("rep", ["medrep"]), ("rep", None), ("concepts", "3"), ("width", 16.0), ("release", 7), ("writer", []), ("settings", "none"), ("dtype", {})],
)
def test_a_fact_of_another_type_or_none_is_refused(elsewhere, name, value):
    forge(elsewhere, **{name: value})
    refuse(elsewhere, rf"is no manifest of export.py \({name} missing or of another type\)")
    facts = json.loads(export.manifest_path(elsewhere).read_text())
    export.manifest_path(elsewhere).write_text(json.dumps({other: fact for other, fact in facts.items() if other != name}))
    refuse(elsewhere, rf"\({name} missing or of another type\)")


def test_the_sum_covers_the_manifest(elsewhere):
    manifest = export.manifest_path(elsewhere)
    manifest.write_text(manifest.read_text().replace('"rep": "medrep"', '"rep": "description"'))
    refuse(elsewhere, "out.safetensors.json does not say what .*out.safetensors itself says: carry both again")
    for inside in ("", "[]", "{"):
        forge(elsewhere, inside=inside)
        refuse(elsewhere, "does not say what")


def test_vectors_that_are_not_those_of_the_manifest_are_refused(elsewhere):
    tensors = load_file(elsewhere)
    lacking_scale = {name: tensor for name, tensor in tensors.items() if name != "scale"}
    for change in (
        {"dtype": "float32"},
        {"dtype": "bfloat16"},
        {"concepts": 4},
        {"width": 8},
        {"tensors": lacking_scale},
        {"tensors": tensors | {"ids": tensors["ids"].astype(np.float32)}},
        {"tensors": tensors | {"scale": tensors["scale"][:1]}},
    ):
        right = elsewhere.read_bytes(), export.manifest_path(elsewhere).read_bytes()
        forge(elsewhere, **change)
        refuse(elsewhere, "vectors that its manifest tells of")
        elsewhere.write_bytes(right[0])
        export.manifest_path(elsewhere).write_bytes(right[1])
    elsewhere.write_bytes(b"no tensors")
    export.manifest_path(elsewhere).write_text(json.dumps(json.loads(right[1]) | {"sha256": storage.sha256_of(elsewhere)}))
    refuse(elsewhere, "is not a safetensors file")


def test_an_import_killed_between_its_two_files_is_finished_by_the_same_command(elsewhere, monkeypatch):
    put_in_place = storage.move_into_place

    def kill_after(part, path):
        put_in_place(part, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "move_into_place", kill_after)
    with pytest.raises(KeyboardInterrupt):
        export.main(["--import", str(elsewhere)])
    assert len(list(contract.representation_folder().iterdir())) == 1
    monkeypatch.setattr(storage, "move_into_place", put_in_place)
    export.main(["--import", str(elsewhere)])
    assert published.published_representations() == ["medrep"] and concept_index.read_concept_index().to_pylist() == ids_in(elsewhere)


def test_the_manifest_says_release_writer_encoder_and_settings(athena, tmp_path):
    (athena / "data" / "concepts" / "VOCABULARY.csv").write_text(
        "vocabulary_id\tvocabulary_name\tvocabulary_reference\tvocabulary_version\tvocabulary_concept_id\n"
        "SNOMED\tSNOMED\tx\t2023\t1\nNone\tOMOP Standardized Vocabularies\tx\tv5.0 31-AUG-23\t44819096\n"
    )
    for stage in (concepts, definitions, encoder, description, edges, graph):
        stage.main([])
    export.main([str(tmp_path / "out.safetensors"), "--hospital", "mimic"])
    facts = json.loads((tmp_path / "out.safetensors.json").read_text())
    assert (facts["release"], facts["writer"], facts["encoder"]) == ("v5.0 31-AUG-23", "template", "none")
    assert facts["settings"]["concept_representation_medrep.npy"]["epochs"] == 3 and facts["settings"]["encoder"]["hidden_size"] == 16
    assert contents.encoder_in_words(facts["settings"]["encoder"]) == "a small DeBERTa with random weights, trained on the definitions"
    random_vectors.main([])
    encoder.main(["--set", "encoder.epochs=0"])
    for rep in ("random", "medrep"):  # which has no text encoder, and which another one was made for
        facts = exchange.manifest(rep, "float32", (8, 16))
        assert facts["encoder"] is None and set(facts["settings"]) >= {"concept_idx.csv", f"concept_representation_{rep}.npy"}


def test_a_text_encoder_is_called_by_its_name_and_by_no_folder_here(tmp_path):
    for model, training, words in (
        ("minilm", "none", "all-MiniLM-L6-v2, as it is"),
        ("minilm", "contrastive", "all-MiniLM-L6-v2, trained by contrast on the vocabulary"),
        ("microsoft/deberta-base", "masked", "microsoft/deberta-base, trained on the definitions"),
        (str(tmp_path), "none", "a local folder, as it is"),
    ):
        assert contents.encoder_in_words({"model": model, "training": training}) == words


def test_a_name_of_another_kind_of_file_is_refused(vectors, tmp_path):
    with pytest.raises(SystemExit, match="out.csv: give it a name that ends in .safetensors"):
        export.main([str(tmp_path / "out.csv"), "--hospital", "mimic"])
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--vocabulary", "ICD11"], "no concepts of ICD11; it has some of LOINC, RxNorm, SNOMED"),
        (["--ids", "/nowhere"], "--ids /nowhere is not there"),
        (["--hospital", "seoul"], "usedata/seoul/vocabulary.json is missing"),
    ],
)
def test_mistakes_are_named(vectors, tmp_path, arguments, words):
    with pytest.raises(SystemExit, match=words):
        export.main([str(tmp_path / "out.safetensors"), *arguments])
    assert not (tmp_path / "out.safetensors").exists()
