"""The synthetic vocabulary: clinical facts, the concepts that can code them, and which hospital uses which.

A fact is what happened ("severe inflammation of the lung", "an ACE inhibitor is taken"). Several concepts can code it:
siblings with names of shared words and the same parent, as in real terminologies. Both hospitals use the same
concepts for most facts; for a share of the facts, drawn at random within each domain and without regard to what the fact
says of a patient, the second hospital uses siblings that the first never uses.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

SITE_SPECIFIC_SHARE = 0.28  # share of facts that the second hospital codes with concepts of its own
RARE_SHARE = 0.03  # share of a fact's records that some other sibling codes, at either hospital: the long tail of real codes
PARENT_SHARE = 0.05  # share of a fact's records that are coded no more closely than by the siblings' parent, as real codes often are

SYSTEMS = {
    "heart": (["Myocardium", "Pericardium", "Mitral valve", "Coronary artery"], ["failure", "ischemia", "inflammation", "fibrosis"]),
    "lung": (["Lung", "Pleura", "Bronchus", "Upper airway"], ["infection", "effusion", "obstruction", "embolism"]),
    "kidney": (["Kidney", "Renal tubule", "Ureter", "Bladder"], ["failure", "infection", "necrosis", "calculus"]),
    "liver": (["Liver", "Gallbladder", "Bile duct", "Portal vein"], ["failure", "inflammation", "cirrhosis", "thrombosis"]),
    "brain": (["Cerebrum", "Cerebellum", "Meninges", "Brain stem"], ["infarction", "hemorrhage", "edema", "inflammation"]),
    "gut": (["Stomach", "Duodenum", "Colon", "Esophagus"], ["hemorrhage", "ulcer", "perforation", "obstruction"]),
    "blood": (["Bone marrow", "Red cell", "Platelet", "Spleen"], ["deficiency", "neoplasm", "hyperplasia", "destruction"]),
    "endocrine": (["Pancreas", "Thyroid", "Adrenal gland", "Pituitary"], ["insufficiency", "neoplasm", "hyperfunction", "inflammation"]),
    "vessel": (["Aorta", "Femoral artery", "Deep vein of leg", "Carotid artery"], ["thrombosis", "aneurysm", "stenosis", "dissection"]),
    "skin": (["Skin of leg", "Skin of trunk", "Subcutaneous tissue", "Nail"], ["infection", "ulcer", "burn", "abscess"]),
    "bone": (["Femur", "Vertebra", "Hip joint", "Humerus"], ["fracture", "infection", "degeneration", "dislocation"]),
    "systemic": (["Bloodstream", "Immune system", "Body fluid", "Whole body"], ["infection", "depletion", "dysfunction", "weakness"]),
}
QUALIFIERS = {0: ["Chronic", "Mild", "Recurrent", "Stable"], 1: ["Acute severe", "Fulminant", "Life-threatening acute", "Acute refractory"]}
ANALYTES = {
    "heart": ["Troponin I", "Natriuretic peptide B", "Creatine kinase MB", "Myoglobin"],
    "lung": ["Oxygen saturation", "Carbon dioxide partial pressure", "Oxygen partial pressure", "Procalcitonin"],
    "kidney": ["Creatinine", "Urea nitrogen", "Potassium", "Cystatin C"],
    "liver": ["Bilirubin", "Alanine aminotransferase", "Ammonia", "Albumin"],
    "brain": ["S100 protein", "Neuron specific enolase", "Sodium", "Osmolality"],
    "gut": ["Hemoglobin", "Lipase", "Gastrin", "Pepsinogen"],
    "blood": ["Platelets", "Leukocytes", "Fibrinogen", "Ferritin"],
    "endocrine": ["Glucose", "Hemoglobin A1c", "Cortisol", "Thyrotropin"],
    "vessel": ["D-dimer", "Antithrombin", "Prothrombin time", "Homocysteine"],
    "skin": ["C reactive protein", "Interleukin 6", "Zinc", "Prealbumin"],
    "bone": ["Calcium", "Phosphate", "Alkaline phosphatase", "Magnesium"],
    "systemic": ["Lactate", "Base excess", "Bicarbonate", "pH"],
}
SPECIMENS = ["in Blood", "in Serum or Plasma", "in Arterial blood", "in Venous blood", "in Capillary blood"]
METHODS = ["", " by Enzymatic assay", " by Automated count"]
DRUG_STEMS = {
    "heart": ("pril", "ACE inhibitor"),
    "lung": ("terol", "Beta-2 agonist"),
    "kidney": ("semide", "Loop diuretic"),
    "liver": ("xaban", "Factor Xa inhibitor"),
    "brain": ("racetam", "Antiepileptic"),
    "gut": ("prazole", "Proton pump inhibitor"),
    "blood": ("grastim", "Colony stimulating factor"),
    "endocrine": ("gliptin", "DPP-4 inhibitor"),
    "vessel": ("statin", "Statin"),
    "skin": ("conazole", "Azole antifungal"),
    "bone": ("dronate", "Bisphosphonate"),
    "systemic": ("cillin", "Penicillin"),
}
SEVERE_STEMS = {
    "heart": ("rinone", "Inotrope"),
    "lung": ("curium", "Neuromuscular blocker"),
    "kidney": ("pressin", "Vasopressor peptide"),
    "liver": ("plase", "Thrombolytic"),
    "brain": ("azepam", "Benzodiazepine"),
    "gut": ("tetron", "Serotonin antagonist"),
    "blood": ("rubicin", "Anthracycline"),
    "endocrine": ("cortone", "Corticosteroid"),
    "vessel": ("parin", "Heparin"),
    "skin": ("vancin", "Glycopeptide antibacterial"),
    "bone": ("fentanil", "Opioid anesthetic"),
    "systemic": ("penem", "Carbapenem"),
}
SYLLABLES = ["ena", "lisi", "dore", "bumi", "ome", "tira", "zole", "capo", "meri", "vala", "sulo", "rami", "pinta", "feno", "gluco", "niva"]
STRENGTHS = ["5 MG", "10 MG", "25 MG", "50 MG", "100 MG"]
FORMS = ["Oral Tablet", "Oral Capsule", "Injectable Solution"]
ACTIONS = {
    0: ["Imaging of", "Biopsy of", "Endoscopy of", "Ultrasonography of"],
    1: ["Emergency resection of", "Drainage of", "Mechanical support of", "Reconstruction of"],
}
APPROACHES = ["open approach", "percutaneous approach", "laparoscopic approach", "robotic approach"]
DOMAINS = ("condition", "drug", "measurement", "procedure")


@dataclass(frozen=True)
class Terminology:
    concepts: pd.DataFrame
    """concept_id, name, domain, vocabulary, concept_class, synonym"""
    relations: pd.DataFrame
    """child, parent, forward, backward: names of the relationship both ways"""
    facts: dict
    """(domain, system, severity 0 or 1) -> list of facts, each a list of sibling concept ids"""
    usage: dict
    """fact's first concept id -> {hospital: (concept ids, probabilities)}"""


class ConceptTables:
    """The concepts, relationships and facts of a terminology, as they are added. Names are the keys: a concept is added once."""

    def __init__(self, random: np.random.Generator):
        self.random, self.concepts, self.relations, self.ids = random, [], [], {}
        self.free_ids = iter(random.permutation(np.arange(300_000, 45_000_000, 997)).tolist())
        self.facts: dict[tuple[str, str, int], list[list[int]]] = {}

    def add_concept(self, name, domain, vocabulary, concept_class, synonym="", parents=(), relation=("Is a", "Subsumes")) -> int:
        """Its id, also where the name is there already."""
        if name not in self.ids:
            self.ids[name] = next(self.free_ids)
            self.concepts.append((self.ids[name], name, domain, vocabulary, concept_class, synonym))
            self.relations.extend((self.ids[name], parent, *relation) for parent in parents)
        return self.ids[name]

    def add_conditions(self):
        disorder = self.add_concept("Clinical finding", "Condition", "SNOMED", "Clinical Finding")
        for system, (sites, pathologies) in SYSTEMS.items():
            of_system = self.add_concept(f"Disorder of {system} system", "Condition", "SNOMED", "Disorder", parents=[disorder])
            for severity, qualifiers in QUALIFIERS.items():
                found = self.facts.setdefault(("condition", system, severity), [])
                for site, pathology in itertools.product(sites, pathologies):
                    synonym = f"{pathology.capitalize()} of {site.lower()}"
                    parent = self.add_concept(f"{site} {pathology}", "Condition", "SNOMED", "Disorder", synonym, [of_system])
                    names = [f"{qualifier} {site.lower()} {pathology}" for qualifier in qualifiers]
                    found.append([self.add_concept(name, "Condition", "SNOMED", "Disorder", parents=[parent]) for name in names])

    def add_drugs(self, stems: dict[str, tuple[str, str]], severity: int):
        for system, (stem, group) in stems.items():
            of_group = self.add_concept(group, "Drug", "ATC", "ATC 4th")
            found = self.facts.setdefault(("drug", system, severity), [])
            for start in self.random.choice(SYLLABLES, 4, replace=False):
                name = f"{start}{stem}"
                ingredient = self.add_concept(name, "Drug", "RxNorm", "Ingredient", parents=[of_group])
                products = [(form, strength) for form in FORMS[:2] for strength in self.random.choice(STRENGTHS, 2, replace=False)]
                found.append([self.add_clinical_drug(name, strength, form, ingredient) for form, strength in products])

    def add_clinical_drug(self, name: str, strength: str, form: str, ingredient: int) -> int:
        synonym, relation = f"{form} of {name} {strength}", ("RxNorm has ing", "RxNorm ing of")
        return self.add_concept(f"{name} {strength} {form}", "Drug", "RxNorm", "Clinical Drug", synonym, [ingredient], relation)

    def add_measurements(self):
        laboratory = self.add_concept("Laboratory test", "Measurement", "LOINC", "LOINC Hierarchy")
        for system, analytes in ANALYTES.items():
            found = self.facts.setdefault(("measurement", system, 0), [])
            for analyte in analytes:
                parent = self.add_concept(f"{analyte} measurement", "Measurement", "LOINC", "LOINC Hierarchy", parents=[laboratory])
                specimens, methods = self.random.permutation(SPECIMENS)[:4], self.random.choice(METHODS, 4)
                names = [f"{analyte} [Mass/volume] {specimen}{method}" for specimen, method in zip(specimens, methods, strict=True)]
                found.append([self.add_concept(name, "Measurement", "LOINC", "Lab Test", parents=[parent]) for name in names])

    def add_procedures(self):
        for system, (sites, _) in SYSTEMS.items():
            of_system = self.add_concept(f"Procedure on {system} system", "Procedure", "SNOMED", "Procedure")
            for severity, actions in ACTIONS.items():
                found = self.facts.setdefault(("procedure", system, severity), [])
                for action, site in zip(actions, sites, strict=True):
                    parent = self.add_concept(f"{action} {site.lower()}", "Procedure", "SNOMED", "Procedure", parents=[of_system])
                    names = [f"{action} {site.lower()}, {approach}" for approach in APPROACHES]
                    found.append([self.add_concept(name, "Procedure", "SNOMED", "Procedure", parents=[parent]) for name in names])


def build(seed: int) -> Terminology:
    tables = ConceptTables(np.random.default_rng([seed, 7]))
    tables.add_conditions()
    tables.add_drugs(DRUG_STEMS, severity=0)
    tables.add_drugs(SEVERE_STEMS, severity=1)
    tables.add_measurements()
    tables.add_procedures()
    parents = {child: parent for child, parent, *_ in tables.relations}
    return Terminology(
        pd.DataFrame(tables.concepts, columns=["concept_id", "name", "domain", "vocabulary", "concept_class", "synonym"]),
        pd.DataFrame(tables.relations, columns=["child", "parent", "forward", "backward"]),
        tables.facts,
        usage(tables.facts, parents, tables.random),
    )


def usage(facts: dict, parents: dict, random: np.random.Generator) -> dict:
    """Which siblings each hospital codes a fact with, and their parent, and how often each."""
    used = {}
    for domain in DOMAINS:
        all_facts = [fact for (d, *_), found in facts.items() if d == domain for fact in found]
        different = set(random.permutation(len(all_facts))[: round(SITE_SPECIFIC_SHARE * len(all_facts))].tolist())
        for i, fact in enumerate(all_facts):
            order = random.permutation(fact).tolist()
            home, other = order[:2], order[2:] if i in different else order[:2]
            shares = random.dirichlet([4, 2])
            rest = {h: [c for c in order[:3] if c not in main] for h, main in (("mimic", home), ("ehrshot", other))}
            if i in different:
                rest = {"mimic": [], "ehrshot": []}  # its siblings stay the other hospital's own
            used[fact[0]] = {}
            for hospital, main in (("mimic", home), ("ehrshot", other)):
                tail = rest[hospital]
                each = np.full(len(tail), RARE_SHARE / max(1, len(tail)))
                specific = np.concatenate([shares * (1 - RARE_SHARE * bool(tail)), each])
                used[fact[0]][hospital] = ([*main, *tail, parents[fact[0]]], np.append(specific * (1 - PARENT_SHARE), PARENT_SHARE))
    return used
