"""A drug's spelling, read against a vocabulary of a dozen drugs, with the traps that eICU's names set."""

import pytest

from medrep.cdm.eicu.concept_maps import learn_hicl
from medrep.cdm.eicu.drug_names import parse_drug_name, parse_rxnorm_name
from medrep.cdm.eicu.drug_vocabulary import DrugVocabulary, find_drug

INGREDIENTS = {
    1: "acetaminophen",
    2: "hydrocodone",
    3: "metoprolol",
    4: "insulin aspart, human",
    5: "Sodium Chloride",
    6: "glucose",
    7: "potassium chloride",
    8: "ondansetron",
    9: "potassium",
    10: "furosemide",
    11: "ipratropium",
    12: "albuterol",
    13: "magnesium sulfate",
    14: "propofol",
    15: "estradiol",
}
DRUGS = {
    101: ("Clinical Drug", "acetaminophen 325 MG Oral Tablet"),
    102: ("Clinical Drug", "acetaminophen 325 MG / hydrocodone bitartrate 5 MG Oral Tablet"),
    103: ("Clinical Drug", "metoprolol tartrate 25 MG Oral Tablet"),
    104: ("Quant Clinical Drug", "24 HR metoprolol succinate 25 MG Extended Release Oral Tablet"),
    105: ("Clinical Drug", "insulin aspart, human 100 UNT/ML Injectable Solution"),
    106: ("Quant Clinical Drug", "1000 ML sodium chloride 9 MG/ML Injection"),
    107: ("Quant Clinical Drug", "2 ML ondansetron 2 MG/ML Injection"),
    108: ("Clinical Drug", "ondansetron 2 MG/ML Injectable Solution"),
    109: ("Clinical Drug Form", "acetaminophen / hydrocodone Oral Tablet"),
    110: ("Branded Drug", "furosemide 20 MG Oral Tablet [Lasix]"),
    111: ("Quant Clinical Drug", "50 ML magnesium sulfate 40 MG/ML Injection"),
    112: ("Clinical Drug", "potassium chloride 20 MEQ Extended Release Oral Tablet"),
    113: ("Clinical Drug", "furosemide 0.25 MG Oral Tablet"),
}
SPELLINGS = [
    ("ns", "generic", ["sodium chloride"]),
    ("nacl", "generic", ["sodium chloride"]),
    ("d5w", "generic", ["glucose"]),
    ("kcl", "generic", ["potassium chloride"]),
    ("norco", "brand", ["hydrocodone", "acetaminophen"]),
    ("tpn", "nothing", []),
    ("unheard of", "brand", ["missing ingredient"]),
]


def concept(concept_id, concept_class, name):
    return {"concept_id": concept_id, "concept_name": name, "vocabulary_id": "RxNorm", "concept_class_id": concept_class, "standard_concept": "S"}


@pytest.fixture(scope="module")
def vocabulary():
    concepts = [concept(i, "Ingredient", name) for i, name in INGREDIENTS.items()]
    return DrugVocabulary([*concepts, *(concept(i, kind, name) for i, (kind, name) in DRUGS.items())], spellings=SPELLINGS)


@pytest.mark.parametrize(
    ("name", "concept_id", "how"),
    [
        ("ACETAMINOPHEN 325 MG PO TABS", 101, "clinical drug"),
        ("acetaMINOPHEN 325 mg TAB", 101, "clinical drug"),
        ("ACETAMINOPHEN 500 MG PO TABS", 1, "ingredient"),  # another strength
        ("ACETAMINOPHEN 325 MG RE SUPP", 1, "ingredient"),  # another form
        ("HYDROCODONE-ACETAMINOPHEN 5-325 MG PO TABS", 102, "clinical drug"),
        ("hydrocodone 5 MG-acetaminophen 325 MG TABLET", 102, "clinical drug"),
        ("ACETAMINOPHEN-HYDROCODONE 5-325 MG PO TABS", 109, "combination"),  # strengths in the other order fit no drug
        ("hydrocodone-acetaminophen", 2, "first ingredient"),
        ("NORCO", 2, "first ingredient"),
        ("METOPROLOL TARTRATE 25 MG PO TABS", 103, "clinical drug"),
        ("METOPROLOL 25 MG TAB", 103, "clinical drug"),
        ("METOPROLOL SUCCINATE 25 MG PO TABS", 3, "ingredient"),  # the tablet is the tartrate's
        ("METOPROLOL SUCCINATE ER 25 MG PO TB24", 104, "clinical drug"),
        ("10 ML VIAL: INSULIN ASPART 100 UNIT/ML SC SOLN", 105, "clinical drug"),
        ("INSULIN ASPART", 4, "ingredient"),
        ("1000 ML FLEX CONT : SODIUM CHLORIDE 0.9 % IV SOLN", 106, "clinical drug"),
        ("1000 ML  -  SODIUM CHLORIDE 0.9 % IV SOLN", 106, "clinical drug"),
        ("SODIUM CHLORIDE 0.9 % IV : 1000 ML", 106, "clinical drug"),
        ("Sodium Chloride 0.9% 1,000 ML BAG", 5, "ingredient"),  # no form is said
        ("500 ML FLEX CONT : SODIUM CHLORIDE 0.9 % IV SOLN", 5, "ingredient"),
        ("NS (ml/hr)", 5, "ingredient"),
        ("D5W", 6, "ingredient"),
        ("KCL 20 MEQ", 7, "ingredient"),
        ("KCL 20 MEQ ER TAB", 112, "clinical drug"),
        ("2 ML VIAL : ondansetron hcl 4 mg/2ml ij soln", 107, "clinical drug"),
        ("ONDANSETRON 2 MG/ML IV SOLN", 108, "clinical drug"),
        ("magnesium sulfate 2 GM/50 ML IVPB", 111, "clinical drug"),
        ("potassium chloride 20 mEq in D5W-NACL", 7, "ingredient"),  # what it is dissolved in is not it
        ("LASIX", 10, "brand"),
        ("furosemide (LASIX) injection 20 mg", 10, "ingredient"),
        ("FUROSEMIDE 250 MCG TAB", 113, "clinical drug"),
        ("Propofol (mcg/kg/min)", 14, "ingredient"),
        ("METOPROLOL POTASSIUM", 3, "ingredient"),  # a salt's other half
        ("POTASSIUM", 9, "ingredient"),
        ("POTASSIUM PHOS,M-BASIC", None, "none"),  # a salt that no ingredient here is
        ("GLUCOSE-FUROSEMIDE PO CHEW", 6, "first ingredient"),  # nothing is dissolved in a tablet
        ("ethinylestradiol", None, "none"),  # an ingredient inside another word
        ("propofolx", None, "none"),
        ("TPN (ml/hr)", None, "none"),
        ("UNHEARD OF", None, "none"),
        ("", None, "none"),
    ],
)
def test_a_spelling_is_the_drug_that_it_says_and_no_more(vocabulary, name, concept_id, how):
    found = find_drug(vocabulary, parse_drug_name(name))
    assert (found.concept_id, found.how) == (concept_id, how)


@pytest.mark.parametrize(
    ("name", "strengths", "volume"),
    [
        ("ENOXAPARIN SODIUM 40 MG/0.4ML SC SOLN", (((100.0, "MG/ML"),),), 0.4),
        ("HEPARIN 5,000 UNIT/ML INJ", (((5000.0, "UNT/ML"),),), None),
        ("digoxin 125 mcg tab", (((0.125, "MG"),),), None),
        ("vancomycin 1 GM VIAL", (((1000.0, "MG"),),), None),
        ("KCL 20 MEQ/100ML", (((0.2, "MEQ/ML"),),), 100.0),
        ("oxycodone-acetaminophen 5-325 MG", (((5.0, "MG"), (325.0, "MG")),), None),
        ("LIDOCAINE 1 % INJ", (((10.0, "MG/ML"),),), None),
        ("mupirocin 2 % OINT", (((0.02, "MG/MG"),),), None),
        ("nicotine 21 MG/24HR TD PT24", (((0.875, "MG/HR"),),), None),
        ("vitamin b12", (), None),
    ],
)
def test_strengths_are_in_rxnorms_units(name, strengths, volume):
    parsed = parse_drug_name(name)
    assert (parsed.strengths, parsed.volume) == (strengths, volume)


def test_rxnorm_names_are_read_as_they_are_built():
    name = parse_rxnorm_name("24 HR metoprolol succinate 25 MG Extended Release Oral Tablet")
    assert (name.components, name.form, name.hours) == ((("metoprolol succinate", (25.0, "MG")),), "Extended Release Oral Tablet", 24.0)
    assert parse_rxnorm_name("acetaminophen Oral Tablet") is None


def test_a_slow_second_reading_of_exact_names_agrees(vocabulary):
    """Every clinical drug's own name, written as a hospital writes it, is that drug; with another number it is not."""
    forms = {"Oral Tablet": "PO TABS", "Injectable Solution": "IV SOLN", "Injection": "IV SOLN", "Extended Release Oral Tablet": "PO TBCR"}
    for concept_id, (kind, name) in DRUGS.items():
        if kind not in ("Clinical Drug", "Quant Clinical Drug") or " / " in name:
            continue
        form = next(f for f in sorted(forms, key=len, reverse=True) if name.endswith(f))
        words = name.removesuffix(form).replace(" HR ", " ML ").replace("UNT", "UNITS").split(" ML ", 1)
        spelled = f"{words[0]} ML  -  {words[1]}{forms[form]}" if len(words) == 2 else f"{words[0]}{forms[form]}"
        if name.startswith("24 HR"):
            spelled = spelled.split("  -  ")[1]
        assert find_drug(vocabulary, parse_drug_name(spelled.upper())).concept_id == concept_id, spelled
        other = find_drug(vocabulary, parse_drug_name(spelled.replace(" MG", "7 MG").replace(" UNITS", "7 UNITS").replace(" MEQ", "7 MEQ")))
        assert other.how == "ingredient", spelled


def learn(vocabulary, *rows):
    rows = [{"drug_name": name, "hicl": hicl, "rows": n} for name, hicl, n in rows]
    return learn_hicl(rows, {row["drug_name"]: find_drug(vocabulary, parse_drug_name(row["drug_name"])) for row in rows})


def test_an_hicl_number_stands_for_what_nearly_all_its_names_are(vocabulary):
    assert learn(vocabulary, ("LASIX", 5, 90), ("FUROSEMIDE 40 MG", 5, 9), ("PROPOFOL", 5, 1), ("", 5, 999)) == {5: 10}
    assert learn(vocabulary, ("LASIX", 5, 90), ("PROPOFOL", 5, 10)) == {}
    assert learn(vocabulary, ("LASIX", 5, 1)) == {}  # one row says nothing
    assert learn(vocabulary, ("LASIX", 5, 90), ("unreadable", 5, 10)) == {}  # it may be another drug
    assert learn(vocabulary, ("LASIX", None, 90)) == {}


def test_a_strength_is_never_learned_from_an_hicl_number(vocabulary):
    assert learn(vocabulary, ("ACETAMINOPHEN 325 MG PO TABS", 7, 50)) == {7: 1}


def test_the_answer_does_not_depend_on_the_order_of_the_vocabulary():
    concepts = [concept(i, "Ingredient", name) for i, name in INGREDIENTS.items()] + [concept(i, k, n) for i, (k, n) in DRUGS.items()]
    one, other = (DrugVocabulary(c, spellings=SPELLINGS) for c in (concepts, concepts[::-1]))
    for name in ("ACETAMINOPHEN 325 MG PO TABS", "LASIX", "NORCO 5/325 TAB", "1000 ML : SODIUM CHLORIDE 0.9 % IV SOLN"):
        assert find_drug(one, parse_drug_name(name)) == find_drug(other, parse_drug_name(name))
