"""From ICD codes to standard concepts, by data/concepts alone: what it does not say is not guessed."""

import re

import ibis
import pyarrow as pa

from medrep.cdm import engine
from medrep.cdm.sources.athena import read_vocabulary_table, valid_rows

ICD9 = re.compile(r"^([0-9]{3}|V[0-9]{2}|E[0-9]{3})(\.[0-9]{1,2})?$")
ICD10 = re.compile(r"^[A-TV-Z][0-9][0-9A-Z](\.[0-9A-Z]{1,4})?$")


def split_codes(text: str) -> list[tuple[str, str]]:
    """(vocabulary, code) of a list of codes, `518.81, J96.00`: its ICD-9-CM codes, then its ICD-10-CM codes.

    A code of V and two digits is an ICD-9 one: eICU codes diagnoses, and not the accidents that ICD-10 has there.
    """
    codes = [part.strip().upper().rstrip(".") for part in re.split("[,;]", text)]
    return [("ICD9CM", code) for code in codes if ICD9.match(code)] + [
        ("ICD10CM", code) for code in codes if ICD10.match(code) and not ICD9.match(code)
    ]


def find_codes(con: ibis.BaseBackend, texts: list[str]) -> ibis.Table:
    """text, vocabulary_id, code and source_concept_id of those codes in `texts` that data/concepts has."""
    rows = [{"text": text, "vocabulary_id": vocabulary, "code": code} for text in texts for vocabulary, code in split_codes(text)]
    codes = ibis.memtable(pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in ("text", "vocabulary_id", "code")])))
    concept = read_vocabulary_table(con, "concept")
    concept = concept.filter(concept.vocabulary_id.isin(["ICD9CM", "ICD10CM"]))
    concept = concept.select("vocabulary_id", code=concept.concept_code, source_concept_id=concept.concept_id)
    return engine.materialize(con, codes.join(concept, ["vocabulary_id", "code"]))


def texts_of(codes: ibis.Table) -> set[str]:
    """The texts of find_codes that have a code which data/concepts knows, whether it leads to a concept or not."""
    return set(codes.select("text").distinct().to_pyarrow()["text"].to_pylist())


def find_concepts(con: ibis.BaseBackend, codes: ibis.Table) -> ibis.Table:
    """text, concept_id, source_concept_id and place (0, 1, ...): the standard concepts of each text of find_codes.

    Both kinds of code say the same thing, and often lead to two concepts of it. So the ICD-9 codes count, by which eICU was coded, and the ICD-10
    codes where the vocabulary leads from no ICD-9 code of the list to a standard concept.
    """
    relationship = valid_rows(read_vocabulary_table(con, "concept_relationship"))
    maps = relationship.filter(relationship.relationship_id == "Maps to").select(source_concept_id="concept_id_1", concept_id="concept_id_2")
    found = codes.join(maps, "source_concept_id")
    found = found.group_by("text", "vocabulary_id", "concept_id").agg(source_concept_id=found.source_concept_id.min())
    found = found.mutate(chosen=found.vocabulary_id.max().over(group_by=found.text))  # ICD9CM sorts last
    found = found.filter(found.vocabulary_id == found.chosen)
    place = ibis.row_number().over(group_by=found.text, order_by=found.concept_id)
    return engine.materialize(con, found.select("text", "concept_id", "source_concept_id", place=place))
