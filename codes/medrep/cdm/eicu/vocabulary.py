"""From ICD codes and names to standard concepts, by data/concepts alone: what it does not say is not guessed."""

import re

import ibis
import pyarrow as pa

from medrep.cdm import engine
from medrep.cdm.sources.athena import read_vocabulary_table, valid_rows

SHORTEST_NAME = 4
"""Letters: `AS` and `MR` are valves here and other things elsewhere."""
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


def find_concepts_of_codes(con: ibis.BaseBackend, texts: list[str]) -> tuple[ibis.Table, set[str]]:
    """text, concept_id, source_concept_id and place (0, 1, ...): the standard concepts of each list of codes. And the texts that have a code which
    data/concepts knows, whether it leads to one or not.

    Both kinds of code say the same thing, and often lead to two concepts of it. So the ICD-9 codes count, by which eICU was coded, and the ICD-10
    codes where the vocabulary leads from no ICD-9 code of the list to a standard concept.
    """
    rows = [{"text": text, "vocabulary_id": vocabulary, "code": code} for text in texts for vocabulary, code in split_codes(text)]
    codes = ibis.memtable(pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in ("text", "vocabulary_id", "code")])))
    concept = read_vocabulary_table(con, "concept")
    concept = concept.filter(concept.vocabulary_id.isin(["ICD9CM", "ICD10CM"]))
    concept = concept.select("vocabulary_id", code=concept.concept_code, source_concept_id=concept.concept_id)
    known = engine.materialize(con, codes.join(concept, ["vocabulary_id", "code"]))
    relationship = valid_rows(read_vocabulary_table(con, "concept_relationship"))
    maps = relationship.filter(relationship.relationship_id == "Maps to").select(source_concept_id="concept_id_1", concept_id="concept_id_2")
    found = known.join(maps, "source_concept_id")
    found = found.group_by("text", "vocabulary_id", "concept_id").agg(source_concept_id=found.source_concept_id.min())
    found = found.mutate(chosen=found.vocabulary_id.max().over(group_by=found.text))  # ICD9CM sorts last
    found = found.filter(found.vocabulary_id == found.chosen)
    place = ibis.row_number().over(group_by=found.text, order_by=found.concept_id)
    found = engine.materialize(con, found.select("text", "concept_id", "source_concept_id", place=place))
    return found, set(known.select("text").distinct().to_pyarrow()["text"].to_pylist())


def name_forms(name: str) -> list[str]:
    """How a vocabulary may write a name: as it is, and without the comma of an index, `Pneumonia, bacterial` as `bacterial pneumonia`."""
    name = " ".join(name.lower().split())
    head, comma, rest = name.partition(", ")
    return [name] + ([f"{rest} {head}"] if comma and "," not in rest else [])


def find_concepts_of_names(con: ibis.BaseBackend, names: dict[str, list[str]]) -> ibis.Table:
    """text and concept_id: of each text the standard concept of a condition that has one of its `names` (best first) as its name or synonym.

    A name that several concepts have as theirs, or as a synonym, leads to none of them.
    """
    forms = [(text, form) for text, own in names.items() for name in own for form in name_forms(name) if len(form) >= SHORTEST_NAME]
    rows = [{"text": text, "name": form, "rank": rank} for rank, (text, form) in enumerate(dict.fromkeys(forms))]
    schema = pa.schema([("text", pa.string()), ("name", pa.string()), ("rank", pa.int64())])
    wanted = ibis.memtable(pa.Table.from_pylist(rows, schema=schema))
    concept = read_vocabulary_table(con, "concept")
    concept = concept.filter((concept.standard_concept == "S") & (concept.domain_id == "Condition"))
    by_name = concept.select("concept_id", name=concept.concept_name.lower()).mutate(as_synonym=0)
    synonym = read_vocabulary_table(con, "concept_synonym")
    if synonym is not None:
        others = synonym.semi_join(concept, "concept_id").select("concept_id", name=synonym.concept_synonym_name.lower()).mutate(as_synonym=1)
        by_name = ibis.union(by_name, others)
    found = engine.materialize(con, wanted.join(by_name, "name").distinct())
    found = found.group_by("text", "rank", "as_synonym").agg(concept_id=found.concept_id.min(), concepts=found.concept_id.nunique())
    found = found.filter(found.concepts == 1)
    place = ibis.row_number().over(group_by=found.text, order_by=[found["rank"], found.as_synonym])
    return engine.materialize(con, found.mutate(place=place).filter(ibis._.place == 0).select("text", "concept_id"))
