"""Write a definition of every concept.

    cd codes
    python representation/definitions.py --writer template

Reads   usedata/representation/concept_idx.csv, data/concepts (CONCEPT, CONCEPT_RELATIONSHIP, CONCEPT_SYNONYM if it is there)
Writes  usedata/representation/definitions

The template writer composes the text from the vocabulary itself, without a network: name, domain and class, synonyms,
parents and what else characterizes a concept (ingredient, form, finding site, specimen), and for a decile what it says.
"""
import argparse
import hashlib
import json

import ibis
import numpy as np
import pyarrow as pa

from medrep import concepts, config, contract, engine, omop
from medrep.contract import DEFINITIONS, Made
from medrep.progress import bar, say, stage

WRITERS = ("template",)
TEMPLATE = "template-2"  # part of every key: raise it when the template changes
MOST = 4  # names of one kind in a definition: the paper asks for minimal definitions, under five sentences
ENGLISH = "4180186"
DECILE_WORDS = ("very low", "low", "below usual", "slightly below usual", "about the middle", "about the middle",
                "slightly above usual", "above usual", "high", "very high")
ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th")

# What a relationship says of its first concept, in the order of the definition. Concepts' other relationships
# (mappings, versions, brands, panels) join vocabularies rather than say what a concept means: they are edges only.
PHRASES = {
    "Is a": "a kind of", "RxNorm is a": "a kind of",
    "RxNorm has ing": "with the ingredient", "Has precise ing": "with the ingredient", "RxNorm has dose form": "given as",
    "Consists of": "consisting of", "Tradename of": "a brand of", "RxNorm - ATC": "in the class", "RxNorm - ATC pr lat": "in the class",
    "RxNorm - ATC pr up": "in the class", "Has finding site": "at the site", "Has asso morph": "with the morphology",
    "Has causative agent": "caused by", "Has due to": "due to", "Has method": "by the method", "Has dir proc site": "at the site",
    "Has proc site": "at the site", "Has dir morph": "on the morphology", "Has component": "of the component", "Has system": "in the specimen",
    "Has property": "as the property", "Has scale type": "on the scale", "Has interprets": "interpreting",
}


def find_features(relationship: ibis.Table, concept: ibis.Table, index: ibis.Table) -> ibis.Table:
    """Distinct concept_id, relationship_id, name of the other concept, for the relationships that PHRASES puts in words."""
    valid = omop.valid(relationship)
    valid = valid.filter(valid.relationship_id.isin(list(PHRASES)) & (valid.concept_id_1 != valid.concept_id_2))
    valid = valid.select("relationship_id", concept_id="concept_id_1", other="concept_id_2").semi_join(index, "concept_id")
    names = concept.select(other="concept_id", name="concept_name")
    return valid.inner_join(names, "other").select("concept_id", "relationship_id", "name").distinct()


def find_synonyms(synonym: ibis.Table, index: ibis.Table) -> ibis.Table:
    """Distinct concept_id and English name; a row without a language counts as English."""
    if "language_concept_id" in synonym.columns:
        language = synonym.language_concept_id.cast("string")
        synonym = synonym.filter(language.isnull() | language.isin([ENGLISH, "0"]))
    return synonym.semi_join(index, "concept_id").select("concept_id", name="concept_synonym_name").filter(lambda t: t.name.notnull()).distinct()


def define(facts: dict, decile: int = -1) -> str:
    """The text of a concept: `facts` has name, domain, kind (its class), synonyms, and features as {phrase: names}.

    The name and the decile come first: an encoder that cuts a long text keeps its beginning.
    """
    name, kind = facts["name"], facts["kind"].lower()
    domain = facts["domain"].lower()
    # a class such as "ICD9CM code" says who coded, not what
    what = domain if kind in ("", domain) or kind.endswith("code") else f"{domain} ({kind})"
    sentences = [f"{name}: {what}."]
    if decile >= 0:
        sentences = [f"{name} ({ORDINALS[decile]} decile): {what}.",
                     f"A value in the {ORDINALS[decile]} of ten tenths of all values: {DECILE_WORDS[decile]}."]
    if facts["features"]:
        parts = [f"{phrase} {' and '.join(names[:MOST])}" for phrase, names in facts["features"].items()]
        sentences.append(f"It is {', '.join(parts)}.")
    if facts["synonyms"]:
        sentences.append(f"Also called {', '.join(facts['synonyms'][:MOST])}.")
    return " ".join(sentences)


def gather_facts(concept: pa.Table, features: pa.Table, synonyms: pa.Table | None) -> dict[int, dict]:
    """{concept_id: facts}, names in a fixed order, so that the order of rows in the files changes nothing."""
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


def key_of(facts: dict, decile: int) -> str:
    """A hash of what the text is made from and of the writer: the same key, the same text."""
    return hashlib.sha256(json.dumps([TEMPLATE, facts, decile], ensure_ascii=False).encode()).hexdigest()[:32]


def write_texts(ids: pa.Array, facts: dict[int, dict]) -> ibis.Table:
    """A DEFINITIONS table of the index's concepts."""
    plain, decile = concepts.plain_and_decile(ids)
    pairs = list(zip(plain.tolist(), decile.tolist(), strict=True))
    texts = [define(facts[p], d) for p, d in bar(pairs, "definitions", unit="texts")]
    columns = {"concept_id": ids, "text": texts, "writer": ["template"] * len(ids), "model": [""] * len(ids),
               "key": [key_of(facts[p], d) for p, d in pairs]}
    return ibis.memtable(pa.table(columns), schema=DEFINITIONS.schema)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writer", default="template", choices=WRITERS)
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    if concepts.published():
        return
    ids = concepts.read_index()
    vocabulary_files = omop.files("concepts", "concept", "concept_relationship", "concept_synonym")
    made = Made(DEFINITIONS.at(), inputs=[contract.concept_index_file(), *vocabulary_files],
                settings={"writer": args.writer, "template": TEMPLATE})
    if made.is_current():
        return
    with stage("definitions") as figures, omop.named_mistakes():
        con = engine.connect(args.engine, args.memory, args.threads)
        index = ibis.memtable({"concept_id": np.unique(concepts.plain_and_decile(ids)[0]).tolist()}, schema={"concept_id": "int64"})
        concept, synonym = omop.vocabulary(con, "concept"), omop.vocabulary(con, "concept_synonym")
        features = find_features(omop.vocabulary(con, "concept_relationship"), concept, index).to_pyarrow()
        synonyms = None if synonym is None else find_synonyms(synonym, index).to_pyarrow()
        facts = gather_facts(concept.semi_join(index, "concept_id").to_pyarrow(), features, synonyms)
        rows = DEFINITIONS.write(con, write_texts(ids, facts))
        figures.update(rows=rows, with_features=sum(bool(f["features"]) for f in facts.values()),
                       with_synonyms=sum(bool(f["synonyms"]) for f in facts.values()))
        say(f"of {len(facts):,} concepts {figures['with_features']:,} have parents or other features, {figures['with_synonyms']:,} have synonyms")
        made.record()


if __name__ == "__main__":
    main()
