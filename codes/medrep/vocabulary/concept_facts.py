"""What data/concepts says of a concept that a definition can say: name, domain, class, synonyms and related concepts.

Held-out relationships (vocabulary/holdout.py) are left out.
"""

from collections.abc import Callable

import ibis
import numpy as np
import pyarrow as pa

from medrep import contract
from medrep.cdm import engine
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.vocabulary import holdout

ENGLISH = "4180186"
# What a relationship says of its first concept, in the order of the definition. Concepts' other relationships
# (mappings, versions, brands, panels) join vocabularies rather than say what a concept means: they are edges only.
PHRASES = {
    "Is a": "a kind of",
    "RxNorm is a": "a kind of",
    "RxNorm has ing": "with the ingredient",
    "Has precise ing": "with the ingredient",
    "RxNorm has dose form": "given as",
    "Consists of": "consisting of",
    "Tradename of": "a brand of",
    "RxNorm - ATC": "in the class",
    "RxNorm - ATC pr lat": "in the class",
    "RxNorm - ATC pr up": "in the class",
    "Has finding site": "at the site",
    "Has asso morph": "with the morphology",
    "Has causative agent": "caused by",
    "Has due to": "due to",
    "Has method": "by the method",
    "Has dir proc site": "at the site",
    "Has proc site": "at the site",
    "Has dir morph": "on the morphology",
    "Has component": "of the component",
    "Has system": "in the specimen",
    "Has property": "as the property",
    "Has scale type": "on the scale",
    "Has interprets": "interpreting",
}


def find_names(concept: ibis.Table, wanted: ibis.Table) -> ibis.Table:
    """concept_id, concept_name, domain_id, concept_class_id and part of the wanted concepts."""
    return concept.select("concept_id", "concept_name", "domain_id", "concept_class_id").inner_join(wanted, "concept_id")


def find_features(relationship: ibis.Table, concept: ibis.Table, wanted: ibis.Table) -> ibis.Table:
    """concept_id, relationship_id, the other concept and its name, and part, for the relationships that PHRASES puts in words."""
    valid = athena.valid_rows(relationship)
    valid = valid.filter(valid.relationship_id.isin(list(PHRASES)) & (valid.concept_id_1 != valid.concept_id_2))
    valid = valid.select("relationship_id", concept_id="concept_id_1", other="concept_id_2").inner_join(wanted, "concept_id")
    names = concept.select(other="concept_id", name="concept_name")
    return valid.inner_join(names, "other").select("concept_id", "relationship_id", "other", "name", "part")


def without_held_out(features: pa.Table) -> pa.Table:
    """The features without the pairs that evaluate.py asks for: a text that says them has read the answers."""
    held = holdout.held_out_mask(features["concept_id"].to_numpy(), features["other"].to_numpy())
    return features.filter(pa.array(~held))


def find_synonyms(synonym: ibis.Table, wanted: ibis.Table) -> ibis.Table:
    """concept_id, English name and part; a row without a language counts as English."""
    if "language_concept_id" in synonym.columns:
        language = synonym.language_concept_id.cast("string")
        synonym = synonym.filter(language.isnull() | language.isin([ENGLISH, "0"]))
    synonym = synonym.select("concept_id", name="concept_synonym_name").filter(lambda t: t.name.notnull())
    return synonym.inner_join(wanted, "concept_id")


def read_synonyms(con: ibis.BaseBackend, wanted: ibis.Table) -> ibis.Table | None:
    """The English names beside the first of the concepts `wanted` (concept_id and more columns), as find_synonyms; None without CONCEPT_SYNONYM."""
    synonym = athena.read_vocabulary_table(con, "concept_synonym")
    return None if synonym is None else find_synonyms(synonym, wanted)


def gather_facts(concept: pa.Table, features: pa.Table, synonyms: pa.Table | None) -> dict[int, dict]:
    """{concept_id: facts}, names in a fixed order and once each, so that the order of rows in the files changes nothing."""
    facts = {}
    rows = (concept[name].to_pylist() for name in ("concept_id", "concept_name", "domain_id", "concept_class_id"))
    for concept_id, name, domain, kind in zip(*rows, strict=True):
        facts[concept_id] = {"name": name or str(concept_id), "domain": domain or "", "kind": kind or "", "synonyms": set(), "features": {}}
    for concept_id, relationship, name in zip(*(features[n].to_pylist() for n in ("concept_id", "relationship_id", "name")), strict=True):
        if name:
            facts[concept_id]["features"].setdefault(PHRASES[relationship], set()).add(name)
    if synonyms is not None:
        for concept_id, name in zip(synonyms["concept_id"].to_pylist(), synonyms["name"].to_pylist(), strict=True):
            # LOINC's synonyms are also lists of key words, `Chemistry; Level; Pl; Qn`: not names
            if name.lower() != facts[concept_id]["name"].lower() and name.count(";") < 2:
                facts[concept_id]["synonyms"].add(name)
    order = list(dict.fromkeys(PHRASES.values()))
    for fact in facts.values():
        # the shortest synonyms are the everyday names; fully specified ones repeat the name
        fact["synonyms"] = sorted(fact["synonyms"], key=lambda name: (len(name), name))
        fact["features"] = {phrase: sorted(fact["features"][phrase]) for phrase in order if phrase in fact["features"]}
    return facts


class VocabularyReader:
    """data/concepts, laid apart once by the parts of the index, so that memory holds one part at a time."""

    def __init__(self, con: ibis.BaseBackend):
        self.con = con
        self.concept = engine.materialize_as_parquet(
            con, athena.read_vocabulary_table(con, "concept").select("concept_id", "concept_name", "domain_id", "concept_class_id")
        )

    def names_by_part(self, wanted: pa.Table) -> Callable[[int], pa.Table]:
        """What find_names says of the wanted concepts, by part."""
        by_part = engine.partition_by(self.con, find_names(self.concept, ibis.memtable(wanted)), "part")

        def names_of(part: int) -> pa.Table:
            names, asked = by_part.part(part).to_pyarrow(), wanted["concept_id"].to_numpy()[wanted["part"].to_numpy() == part]
            if len(lacking := np.setdiff1d(asked, names["concept_id"].to_numpy())):
                raise UserError(
                    f"data/concepts/CONCEPT lacks {len(lacking):,} concepts of {contract.concept_index_file().name}, such as "
                    f"{lacking[0]}: representation/concepts.py writes it anew"
                )
            return names

        return names_of

    def facts_by_part(self, wanted: pa.Table) -> Callable[[int], dict[int, dict]]:
        """What gather_facts says of the wanted concepts, by part."""
        table = ibis.memtable(wanted)
        names = self.names_by_part(wanted)
        features = engine.partition_by(
            self.con, find_features(athena.read_vocabulary_table(self.con, "concept_relationship"), self.concept, table), "part"
        )
        synonyms = read_synonyms(self.con, table)
        synonyms = None if synonyms is None else engine.partition_by(self.con, synonyms, "part")
        return lambda part: gather_facts(
            names(part), without_held_out(features.part(part).to_pyarrow()), synonyms and synonyms.part(part).to_pyarrow()
        )
