"""What a chat completion says."""

import pytest

from medrep import config
from medrep.llm import replies

REFUSED = [
    "Unfortunately, I cannot define this concept.",
    "I apologize, but I can't help.",
    "I do not have enough information.",
    "Please provide more context about this concept.",
    "Apologies, but this is unclear.",
    "My apologies, there is no such name.",
    "I don’t have specific information on it.",
    "Could you please clarify the term?",
    "I’m very sorry, no.",
    "I need more context.",
    "I don't know what this is.",
    "I could not find this concept.",
    "Without further details, it is unclear.",
    "As an AI model, I do not.",
]


DEFINED = [
    "Inability to swallow is a failure to move food to the stomach.",
    "A patient who cannot swallow has dysphagia.",
    "Unable to swallow is dysphagia.",
    "I-cell disease is a lysosomal storage disease.",
    "I don't know is an answer of a survey.",
    "Please specify the type of cancer is an item of a survey.",
    "I do not have enough energy is an item of a survey.",
    "Information not available is an answer.",
    "Sorrow is a mood.",
    "Insufficient information is a finding without enough context.",
    "One is. Two is. Three is. Four is.",
    "St. John's wort is a herb. It is given at approx. 5 mg vs. Placebo. Spores of Candida spp. Are not. It treats E. coli at 0.5 mg (e.g. Fever).",
]


@pytest.mark.parametrize(("texts", "failed"), [(REFUSED, "refused"), (DEFINED, None)])
def test_refusals_are_told_from_definitions(texts, failed):
    parse = replies.definition_parser(config.load("definitions"))
    parsed = {text: replies.parse_reply({"choices": [{"finish_reason": "stop", "message": {"content": text}}]}, parse) for text in texts}
    assert {text for text, reply in parsed.items() if reply.get("failed") != failed} == set()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Infection by E. coli at 0.5 mg. It shows (e.g. fever).", 2),
        ("One", 0),
        ("One.", 1),
        ('He said "no." Then 5 came!', 2),
        ("a.b.c. d", 0),
        ("St. John's wort vs. Placebo, approx. 5 mg, e.g. Fever. It is in the U.S. Pharmacopoeia.", 2),
        ("It is seen. It grows?) Yes!", 3),
    ],
)
def test_sentences_are_counted_as_a_reader_does(text, sentences):
    assert len(replies.END_OF_SENTENCE.findall(text)) == sentences
