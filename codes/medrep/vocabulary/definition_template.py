"""Definitions composed from a concept's facts (concept_facts.py), without a language model."""

import hashlib
import json

from medrep.vocabulary.token_vocabulary import ORDINALS

TEMPLATE = "template-3"  # part of every key: raise it when the template changes
MAX_NAMES_OF_A_KIND = 4  # names of one kind in a definition: the paper asks for minimal definitions, under five sentences
DECILE_WORDS = (
    "very low",
    "low",
    "below usual",
    "slightly below usual",
    "about the middle",
    "about the middle",
    "slightly above usual",
    "above usual",
    "high",
    "very high",
)


def decile_sentence(decile: int) -> str:
    return f"A value in the {ORDINALS[decile]} of ten tenths of all values: {DECILE_WORDS[decile]}."


def define(facts: dict, decile: int = -1) -> str:
    """The text of a concept: `facts` has name, domain, kind (its class), synonyms, and features as {phrase: names}.

    The name and the decile come first: an encoder that cuts a long text keeps its beginning.
    """
    name, kind = facts["name"], facts["kind"].lower()
    domain = facts["domain"].lower()
    # a class such as "ICD9CM code" says who coded, not what
    category = domain if kind in ("", domain) or kind.endswith("code") else f"{domain} ({kind})"
    sentences = [f"{name}: {category}."]
    if decile >= 0:
        sentences = [f"{name} ({ORDINALS[decile]} decile): {category}.", decile_sentence(decile)]
    if facts["features"]:
        parts = [f"{phrase} {' and '.join(names[:MAX_NAMES_OF_A_KIND])}" for phrase, names in facts["features"].items()]
        sentences.append(f"It is {', '.join(parts)}.")
    if facts["synonyms"]:
        sentences.append(f"Also called {', '.join(facts['synonyms'][:MAX_NAMES_OF_A_KIND])}.")
    return " ".join(sentences)


def by_template(facts: dict, decile: int) -> dict:
    """text, writer, model and key: a hash of what the text is made from and of the writer, so that the same key is the same text."""
    return {"text": define(facts, decile), "writer": "template", "model": "", "key": hash_of(TEMPLATE, facts, decile)}


def hash_of(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:32]
