"""What a card calls hospitals and outcomes: what the user says, and of what the user says nothing, nothing that is the hospital's own."""

from collections.abc import Sequence
from dataclasses import replace

from medrep import config
from medrep.cdm import outcomes
from medrep.errors import UserError
from medrep.llm import rating_prompts
from medrep.vectors import representations


class PublicNames:
    def __init__(self, given: Sequence[str], home: str, overrides: Sequence[str] = ()):
        """`given`: what a hospital, an outcome or a representation is called here, =, and what the card is to call it."""
        pairs = [text.partition("=") for text in given]
        if wrong := [name + equals + words for name, equals, words in pairs if not (name and equals and words.strip())]:
            raise UserError(f"--name {wrong[0]}: write what it is called here, =, and what the card is to call it")
        self.given, self.home, self.others = {name: words.strip() for name, _, words in pairs}, home, []
        self.cohort = replace(config.load("cohort", overrides), home=home)

    def hospital(self, name: str) -> str:
        if name in self.given:
            return self.given[name]
        if name == self.home:
            return "the home hospital"
        if name not in self.others:
            self.others.append(name)
        place = self.others.index(name) + 1
        return "another hospital" + (f" ({place})" if place > 1 else "")

    def outcome(self, name: str) -> str:
        """In words; of one that is built in what it means."""
        if name in self.given:
            return self.given[name]
        if name not in outcomes.built_in_outcomes():
            return "an outcome of the hospital's own"
        cohort = rating_prompts.cohort_of_labels(name, self.cohort)
        return rating_prompts.describe_outcome(rating_prompts.read_rating_prompt(), name, cohort)

    def label(self, name: str, outcome: str) -> str:
        """One of an outcome's several labels, such as phenotypes."""
        known = name == "macro" or outcome in self.given or outcome in outcomes.built_in_outcomes()
        return self.given.get(name, {"macro": "mean over labels"}.get(name, name) if known else "a label of the hospital's own")

    def representation(self, name: str) -> str:
        return self.given.get(name, name if name in representations.REPRESENTATION_SCRIPTS else "vectors of the hospital's own")
