"""Ingredients, brands and clinical drugs of the vocabulary, to be found by the words of a name.

    vocabulary = DrugVocabulary(concepts, synonyms, links, spellings)
    vocabulary.find_ingredients(parse_drug_name("METOPROLOL TARTRATE 25 MG").words)

Ingredients are RxNorm's standard ones by name and synonym; brands are what RxNorm puts in brackets (`furosemide 20 MG Oral Tablet
[Lasix]`) and what `Tradename of` or `Brand name of` leads from; configs/hospitals/eicu/drug_names.csv adds the spellings that only
hospitals use (`NS`, `KCL`, `ASA`).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from medrep.cdm.eicu.drug_names import DOSE_FORMS, DrugName, Strength, parse_rxnorm_name, split_words

Phrase = tuple[str, ...]
RXNORM_FORMS = sorted({form for _, forms in DOSE_FORMS for form in forms}, key=len, reverse=True)

SALTS = {  # as hospitals shorten them: as RxNorm spells them
    **{
        word: word
        for word in (
            "acetate acetonide aspartate axetil besylate bisulfate bitartrate bromide calcium carbonate chloride cilexetil citrate decanoate "
            "dihydrate dipropionate disodium edisylate esylate ethylsuccinate etexilate fumarate furoate gluconate hemifumarate hyclate "
            "hydrobromide hydrochloride hydroxide lactate lactobionate lysine magnesium malate maleate medoxomil mesylate methylsulfate "
            "monohydrate mononitrate monosodium mucate napsylate nitrate oxalate palmitate pamoate pentahydrate phosphate potassium propionate "
            "salicylate sesquihydrate sodium stearate succinate sulfate tartrate tosylate trihydrate tromethamine valerate xinafoate zinc "
            "anhydrous disoproxil monobasic dibasic"
        ).split()
    },
    **{"hcl": "hydrochloride", "hydroch": "hydrochloride", "hbr": "hydrobromide", "sod": "sodium", "so": "sodium", "na": "sodium"},
    **{"sulf": "sulfate", "succ": "succinate", "besilate": "besylate", "mesilate": "mesylate", "tart": "tartrate", "pot": "potassium"},
    **{"gluc": "gluconate", "phos": "phosphate", "ace": "acetate", "bitart": "bitartrate", "mag": "magnesium", "cit": "citrate"},
}
JOINING = {"/", "&", "+", ","}
"""What separates one ingredient from the next: `calcium carbonate/magnesium` has two, `penicillin g potassium` one."""
ELEMENTS = {"sodium", "potassium", "calcium", "magnesium", "zinc", "iron", "oxygen", "water", "alcohol", "ethanol", "nitrogen", "air", "phosphate"}
"""Ingredients by name, but in most names a salt's other half or what the drug is dissolved in: they count only where they stand alone."""
DILUENTS = ("sodium chloride", "glucose", "water")
"""Beside another ingredient these are what it is dissolved in."""
DISSOLVED_FORMS = {"Injection", "Injectable Solution", "Prefilled Syringe", "Cartridge", "Inhalation Solution"}
LONGEST_PHRASE = 8
AGREEING_BRAND_SHARE = 0.9


@dataclass(frozen=True)
class Mention:
    """An ingredient set that stands in a name, its salt words, and whether a brand said it."""

    ingredients: tuple[int, ...]
    salts: frozenset[str]
    is_brand: bool


@dataclass(frozen=True)
class ClinicalDrug:
    concept_id: int
    salts: dict[int, frozenset[str]]
    form: str
    volume: float | None
    hours: float | None


class DrugVocabulary:
    """concepts: dicts of CONCEPT's rows of domain Drug; synonyms: (concept_id, name); links: (id_1, id_2) of brands to what they are a name of;
    spellings: (spelling, kind, ingredient names)."""

    def __init__(
        self,
        concepts: list[dict],
        synonyms: Iterable[tuple[int, str]] = (),
        links: Iterable[tuple[int, int]] = (),
        spellings: Iterable[tuple[str, str, list[str]]] = (),
    ):
        self.by_id = {c["concept_id"]: c for c in concepts}
        self.generic: dict[Phrase, tuple[int, ...]] = {}
        self.brands: dict[Phrase, tuple[int, ...]] = {}
        self.fixed: dict[Phrase, int | None] = {}
        self.names = {c["concept_name"].lower(): c["concept_id"] for c in concepts if c["standard_concept"] == "S"}
        self.absent_ingredients: set[Phrase] = set()
        self.add_ingredients(concepts, synonyms)
        self.element_ids = {self.generic[(word,)][0] for word in ELEMENTS if (word,) in self.generic}
        self.add_spellings(spellings)
        self.diluents = {self.generic[tuple(name.split())][0] for name in DILUENTS if tuple(name.split()) in self.generic}
        self.clinical_drugs: dict[frozenset, list[ClinicalDrug]] = defaultdict(list)
        self.clinical_forms: dict[tuple[frozenset[int], str], list[int]] = defaultdict(list)
        self.add_clinical_drugs(concepts)
        self.add_brands(concepts, links)

    def add_ingredients(self, concepts: list[dict], synonyms: Iterable[tuple[int, str]]):
        """RxNorm before RxNorm Extension, and the name before a synonym, where two claim one spelling."""
        ingredients = [c for c in concepts if c["concept_class_id"] == "Ingredient" and c["standard_concept"] == "S"]
        ingredients.sort(key=lambda c: (c["vocabulary_id"] != "RxNorm", c["concept_id"]))
        for concept in ingredients:
            for phrase in spell_ingredient(concept["concept_name"]):
                self.generic.setdefault(phrase, (concept["concept_id"],))
        ids = {c["concept_id"] for c in ingredients}
        for concept_id, name in sorted(synonyms):
            if concept_id in ids:
                for phrase in spell_ingredient(name):
                    self.generic.setdefault(phrase, (concept_id,))

    def add_spellings(self, spellings: Iterable[tuple[str, str, list[str]]]):
        """A spelling with no ingredients is known to be no single drug, and its words are no other; so with one whose ingredient is absent."""
        for spelling, kind, names in spellings:
            phrase = phrase_of(spelling)
            if kind == "clinical drug":  # whose name says its strengths: lactated Ringer's is always the same
                self.fixed[phrase] = self.names.get(" / ".join(names).lower())
                self.absent_ingredients |= {phrase} if self.fixed[phrase] is None else set()
                continue
            found = [self.generic.get(phrase_of(name)) for name in names]
            if not all(found):
                self.absent_ingredients.add(phrase)
            table = self.brands if kind == "brand" else self.generic
            table[phrase] = tuple(i for ids in found if ids for i in ids) if all(found) else ()

    def add_clinical_drugs(self, concepts: list[dict]):
        for concept in concepts:
            if concept["standard_concept"] != "S" or concept["vocabulary_id"] not in ("RxNorm", "RxNorm Extension"):
                continue
            if concept["concept_class_id"] in ("Clinical Drug", "Quant Clinical Drug"):
                self.add_clinical_drug(concept)
            elif concept["concept_class_id"] == "Clinical Drug Form":
                form = next((f for f in RXNORM_FORMS if concept["concept_name"].endswith(f" {f}")), None)
                ids = self.ordered_ingredients(concept["concept_name"].removesuffix(f" {form}").split(" / "))
                if form and ids:
                    self.clinical_forms[frozenset(ids), form].append(concept["concept_id"])

    def add_clinical_drug(self, concept: dict):
        name = parse_rxnorm_name(concept["concept_name"])
        if name is None:
            return
        strengths, salts = {}, {}
        for text, strength in name.components:
            mentions = self.find_mentions(split_words(text))
            if len(mentions) != 1 or len(mentions[0].ingredients) != 1:
                return
            strengths[mentions[0].ingredients[0]] = strength
            salts[mentions[0].ingredients[0]] = mentions[0].salts
        drug = ClinicalDrug(concept["concept_id"], salts, name.form, name.volume, name.hours)
        self.clinical_drugs[frozenset(strengths.items())].append(drug)

    def add_brands(self, concepts: list[dict], links: Iterable[tuple[int, int]]):
        """A brand that stands for more than one set of ingredients is no name for one (`Tylenol` in a cold remedy is another thing)."""
        meanings: dict[Phrase, Counter] = defaultdict(Counter)
        for concept in concepts:
            bracket = re.fullmatch(r"(.*)\[(.+)\]", concept["concept_name"])
            if bracket and concept["vocabulary_id"] in ("RxNorm", "RxNorm Extension"):
                meanings[phrase_of(bracket[2])][self.ordered_ingredients(bracket[1].split(" / "))] += 1
        for brand_id, other_id in links:
            brand, other = self.by_id.get(brand_id), self.by_id.get(other_id)
            if brand and other and brand["concept_class_id"] == "Brand Name":
                parts = re.sub(r"\[.*\]", "", other["concept_name"]).split(" / ")
                meanings[phrase_of(brand["concept_name"])][self.ordered_ingredients(parts)] += 1
        for phrase, counts in meanings.items():
            ingredients, n = counts.most_common(1)[0]
            if ingredients and phrase not in self.generic and phrase not in self.brands and n >= AGREEING_BRAND_SHARE * counts.total():
                self.brands[phrase] = ingredients

    def ordered_ingredients(self, parts: list[str]) -> tuple[int, ...]:
        """The ingredients of a name's parts in their order; () where a part has none or several."""
        found = [self.find_mentions(split_words(re.sub(r" \d.*$", "", re.sub(r"^(NDA\d+ )?[\d.]+ (ML|HR|ACTUAT) ", "", p)).lower())) for p in parts]
        if any(len(mentions) != 1 or len(mentions[0].ingredients) != 1 for mentions in found):
            return ()
        return tuple(mentions[0].ingredients[0] for mentions in found)

    def find_mentions(self, words: tuple[tuple[str, str], ...]) -> list[Mention]:
        """The ingredients and brands in a name's words, left to right, the longest phrase first; whole words only."""
        plain, mentions, i = tuple(word for word, _ in words), [], 0
        while i < len(words):
            phrase, table = self.longest_phrase(plain, i)
            if phrase is None:
                i += 1
                continue
            i += len(phrase)
            salts = set()
            while i < len(words) and plain[i] in SALTS and not self.begins_another(words, i):
                salts.add(SALTS[plain[i]])
                i += 1
            if table is self.fixed:
                drug = self.fixed[phrase]
                mentions += [Mention((drug,), frozenset(), False)] if drug else []
            elif ingredients := table[phrase]:
                mentions.append(Mention(ingredients, frozenset(salts), table is self.brands))
        return mentions

    def begins_another(self, words: tuple[tuple[str, str], ...], i: int) -> bool:
        """Whether a salt's word is the next ingredient's: after `/`, and after `-` where an ingredient of several words follows."""
        plain = tuple(word for word, _ in words)
        return bool(set(words[i][1]) & JOINING) or ("-" in words[i][1] and len(self.longest_phrase(plain, i)[0] or ()) > 1)

    def longest_phrase(self, plain: Phrase, i: int) -> tuple[Phrase | None, dict]:
        for n in range(min(LONGEST_PHRASE, len(plain) - i), 0, -1):
            for table in (self.fixed, self.generic, self.brands):
                if plain[i : i + n] in table:
                    return plain[i : i + n], table
        return None, self.generic


def phrase_of(text: str) -> Phrase:
    return tuple(word for word, _ in split_words(text.lower()))


def spell_ingredient(name: str) -> list[Phrase]:
    """How an ingredient's name is found: as it is, and without what only the terminology adds (`sennosides, USP`, `vasopressin (USP)`)."""
    bare = re.sub(r"\(.*?\)|,? usp\b|,? rdna origin\b|\bpreparation\b", " ", name.lower())
    without_human = re.sub(r",? human\b", " ", bare)
    return list(dict.fromkeys(p for p in map(phrase_of, (name, bare, without_human)) if p))


def salts_agree(named: frozenset[str], of_drug: frozenset[str]) -> bool:
    """Whether nothing contradicts: `metoprolol` may be the tartrate, `metoprolol succinate` may not."""
    return not named or not of_drug or named <= of_drug or of_drug <= named


# ---- from a name to a concept --------------------------------------------------------------------------------------


NO_DRUG_WORDS = {"consult", "supplies"}
"""Of what is ordered with a drug: `vancomycin consult to pharmacy`."""


@dataclass(frozen=True)
class Found:
    """What a name means: its ingredients in the name's order, and the concept by the rule `how` (None and "none" without one).

    A drug of fixed composition (lactated Ringer's) stands for its own ingredient.
    """

    ingredients: tuple[int, ...]
    concept_id: int | None
    how: str


def find_drug(vocabulary: DrugVocabulary, name: DrugName) -> Found:
    """The clinical drug where ingredients, strengths and dose form agree exactly with one; else the combination or the ingredient.

    Several ingredients without a concept of their own are the first in the name's order, as OMOP's Ingredients are single: the row is an
    exposure to it, and nothing is said of the others.
    """
    if NO_DRUG_WORDS & set(name.words):
        return Found((), None, "none")
    mentions = vocabulary.find_mentions(name.words)
    named = choose_mentions(vocabulary, mentions)
    if fixed := [m.ingredients[0] for m in named if m.ingredients[0] in vocabulary.fixed.values()]:
        return Found((fixed[0],), fixed[0], "clinical drug")
    everything = tuple(dict.fromkeys(i for m in named for i in m.ingredients))
    if not everything:
        return Found((), None, "none")
    salts = {i: m.salts for m in named for i in m.ingredients}
    may_be_dissolved = not name.forms or bool(set(name.forms) & DISSOLVED_FORMS)
    undissolved = [i for i in everything if i not in vocabulary.diluents or not may_be_dissolved]
    active = tuple(undissolved or everything)
    first = active[0]
    drug = find_clinical_drug(vocabulary, name, everything, salts)
    if drug is not None:
        return Found(active, drug, "clinical drug")
    if len(active) > 1:
        forms = [c for form in name.forms for c in vocabulary.clinical_forms.get((frozenset(active), form), [])]
        if len(forms) == 1:
            return Found(active, forms[0], "combination")
        return Found(active, first, "first ingredient")
    return Found(active, first, "brand" if all(m.is_brand for m in named) else "ingredient")


def choose_mentions(vocabulary: DrugVocabulary, mentions: list[Mention]) -> list[Mention]:
    """What a name says of itself before a brand in it, unless that is only what the brand is dissolved in; an element only where nothing else is said,
    and no salt of it (`potassium phos`)."""
    elements = [m for m in mentions if set(m.ingredients) <= vocabulary.element_ids]
    others = [m for m in mentions if m not in elements]
    generic = [m for m in others if not m.is_brand]
    if all(set(m.ingredients) <= vocabulary.diluents for m in generic):
        generic = [m for m in others if m.is_brand]
    return generic or others or [m for m in elements if not m.salts]


def find_clinical_drug(vocabulary: DrugVocabulary, name: DrugName, ingredients: tuple[int, ...], salts: dict[int, frozenset[str]]) -> int | None:
    """The one clinical drug of these ingredients in the name's strength, form, volume and hours; None where none or several fit."""
    fits = []
    for strengths in possible_strengths(name, len(ingredients)):
        for drug in vocabulary.clinical_drugs.get(frozenset(zip(ingredients, strengths, strict=True)), []):
            if drug.form in name.forms and all(salts_agree(salts[i], drug.salts[i]) for i in ingredients):
                fits.append(drug)
    if name.hours is not None:
        fits = [d for d in fits if d.hours in (None, name.hours)]
    exact = [d for d in fits if d.volume is not None and d.volume == name.volume]
    fits = exact or [d for d in fits if d.volume is None]
    ids = {d.concept_id for d in fits}
    if len(ids) > 1:  # RxNorm Extension repeats some of RxNorm's
        ids = {i for i in ids if vocabulary.by_id[i]["vocabulary_id"] == "RxNorm"}
    return ids.pop() if len(ids) == 1 else None


def possible_strengths(name: DrugName, ingredients: int) -> list[tuple[Strength, ...]]:
    """The strengths of a name, one an ingredient; none where the name has two that differ for one ingredient."""
    if ingredients == 1:
        single = [s for s in name.strengths if len(s) == 1]
        return single if len(name.strengths) == 1 else []
    together = [s for s in name.strengths if len(s) == ingredients]
    if len(together) == 1 and len(name.strengths) == 1:
        return together
    apart = [s[0] for s in name.strengths if len(s) == 1]
    return [tuple(apart)] if len(apart) == len(name.strengths) == ingredients else []
