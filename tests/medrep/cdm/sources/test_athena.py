"""The vocabulary's files as Athena writes them."""

import pytest

from medrep import contract
from medrep.cdm import table_files
from medrep.cdm.engine import connect
from medrep.cdm.sources import athena
from medrep.errors import UserError


def test_a_short_line_of_the_vocabulary_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    (tmp_path / "data" / "concepts").mkdir(parents=True)
    (tmp_path / "data" / "concepts" / "CONCEPT_ANCESTOR.csv").write_text("ancestor_concept_id\tdescendant_concept_id\n1\t2\n3\n")
    with pytest.raises(UserError, match="CONCEPT_ANCESTOR.csv is malformed at line 3"), table_files.csv_errors_in_words():
        athena.read_vocabulary_table(connect(), "concept_ancestor").to_pyarrow()


def test_athena_names_are_never_quoted_and_na_is_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    (tmp_path / "data" / "concepts").mkdir(parents=True)
    columns = ["CONCEPT_ID", *(name.upper() for name in athena.REQUIRED_COLUMNS["concept"][1:])]
    rows = [
        ["1", '"Bad" air', "Condition", "SNOMED", "Clinical Finding", "1"],
        ["2", "NA", "Drug", "RxNorm", "Ingredient", "2"],
        ["2000000001", 'open " quote', "Drug", "local", "x", "3"],
    ]
    (tmp_path / "data" / "concepts" / "CONCEPT.csv").write_text("\n".join("\t".join(row) for row in [columns, *rows]) + "\n")
    found = athena.read_vocabulary_table(connect(), "concept").order_by("concept_id").to_pyarrow().to_pylist()
    assert [(row["concept_id"], row["concept_name"]) for row in found] == [(1, '"Bad" air'), (2, "NA"), (2000000001, 'open " quote')]
    assert athena.read_vocabulary_table(connect(), "concept_ancestor") is None
