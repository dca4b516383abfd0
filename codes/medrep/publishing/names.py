"""What a card calls hospitals and outcomes: what the user says, and of what the user says nothing, nothing that is the hospital's own."""

from collections.abc import Sequence
from dataclasses import replace

from medrep import config, contract
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
        self.asked: set[str] = set()
        """What the card has words for."""
        self.cohort = replace(config.load("cohort", overrides), home=home)

    def find(self, name: str) -> str | None:
        """What the user says of it."""
        self.asked.add(name)
        return self.given.get(name)

    def require_all_asked(self):
        """Refuse what was given for a name that the card has no words for: it would be left out in silence."""
        if unknown := sorted({*self.given} - self.asked):
            raise UserError(
                f"--name {unknown[0]}={self.given[unknown[0]]}: the card has nothing that is called {unknown[0]} here; names can be given to "
                f"{', '.join(sorted(self.asked)) or 'nothing in it'}"
            )

    def hospital(self, name: str) -> str:
        """Of an invented one that it is, whatever it is called."""
        return (self.find(name) or self.unnamed_hospital(name)) + (" (invented)" if contract.is_synthetic(name) else "")

    def unnamed_hospital(self, name: str) -> str:
        if name == self.home:
            return "the home hospital"
        if name not in self.others:
            self.others.append(name)
        place = self.others.index(name) + 1
        return "another hospital" + (f" ({place})" if place > 1 else "")

    def outcome(self, name: str) -> str:
        """In words; of one that is built in what it means."""
        if given := self.find(name):
            return given
        if name not in outcomes.built_in_outcomes():
            return "an outcome of the hospital's own"
        cohort = rating_prompts.cohort_of_labels(name, self.cohort)
        return rating_prompts.describe_outcome(rating_prompts.read_rating_prompt(), name, cohort)

    def label(self, name: str, outcome: str) -> str:
        """One of an outcome's several labels, such as phenotypes."""
        known = name == "macro" or outcome in self.given or outcome in outcomes.built_in_outcomes()
        return self.find(name) or ({"macro": "mean over labels"}.get(name, name) if known else "a label of the hospital's own")

    def representation(self, name: str) -> str:
        return self.find(name) or (name if name in representations.REPRESENTATION_SCRIPTS else "vectors of the hospital's own")
