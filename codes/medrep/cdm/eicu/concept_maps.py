"""Names of eICU as OMOP concepts: drugs, measurements, treatments, past history and admission diagnoses.

    map_drugs(con, names)        names: drug_name, hicl, and rows (how often) where the caller has it
    map_measurements(con)        source, name, unit -> concept_id, factor, to_unit
    map_treatments(con), map_history(con), map_admission_diagnoses(con)      path -> concept_id

All look up distinct names in the vocabulary of data/concepts. What a person had to know stands in configs/hospitals/eicu/*.csv: names
of eICU beside ids and names of concepts, and each id is checked against CONCEPT whenever it is read. An id that this vocabulary lacks
is kept and counted apart; one whose name or standing has changed is said with its line.
"""

import csv
from collections import Counter, defaultdict
from dataclasses import dataclass

import ibis
import pyarrow as pa

from medrep import contract
from medrep.cdm.eicu.drug_names import parse_drug_name
from medrep.cdm.eicu.drug_vocabulary import DrugVocabulary, Found, find_drug
from medrep.cdm.sources import athena
from medrep.cdm.sources.columns import NO_UNIT
from medrep.errors import UserError
from medrep.progress import print_line

FOLDER = contract.REPOSITORY / "codes" / "configs" / "hospitals" / "eicu"
MAPPED, ABSENT, NO_CONCEPT = "mapped", "not in this vocabulary", "no concept"

# ---- drugs -----------------------------------------------------------------------------------------------------------

DRUG_CLASSES = ("Ingredient", "Clinical Drug", "Quant Clinical Drug", "Clinical Drug Form")
BRAND_CLASSES = ("Brand Name", "Branded Drug", "Quant Branded Drug", "Branded Drug Form", "Branded Drug Comp")
HICL_SHARE = 0.95
"""An HICL number stands for an ingredient where so many of its rows with a name say so; a name that can't be read does not."""
HICL_ROWS = 2
"""Fewer rows with a name say nothing of an HICL number."""


def map_drugs(con: ibis.BaseBackend, names: pa.Table) -> pa.Table:
    """`names` (drug_name, hicl, maybe rows) with concept_id and `how`: the rule that found it, or none.

    clinical drug     ingredients, strengths and dose form agree exactly with one RxNorm clinical drug
    combination       several ingredients, and one Clinical Drug Form has them all in the name's form
    ingredient, brand the one ingredient that the name, or its brand, stands for
    first ingredient  the first of several that no one concept has together
    hicl              no name, or one that says nothing: the ingredient that HICL_SHARE of the HICL number's other rows name
    """
    vocabulary = read_drug_vocabulary(con)
    rows = names.to_pylist()
    for row in rows:
        row["drug_name"] = (row["drug_name"] or "").strip()
    found = {text: find_drug(vocabulary, parse_drug_name(text)) for text in {row["drug_name"] for row in rows}}
    by_hicl = learn_hicl(rows, found)
    answers = []
    for row in rows:
        answer = found[row["drug_name"]]
        if answer.concept_id is None and row["hicl"] in by_hicl:
            answer = Found((), by_hicl[row["hicl"]], "hicl")
        answers.append(answer)
    return names.append_column("concept_id", pa.array([a.concept_id for a in answers], pa.int64())).append_column(
        "how", pa.array([a.how for a in answers], pa.string())
    )


def learn_hicl(rows: list[dict], found: dict[str, Found]) -> dict[int, int]:
    """{HICL number: ingredient}, for the numbers whose rows with a name agree. A combination stands for its first ingredient, as a name's does."""
    meanings, orders = defaultdict(Counter), defaultdict(Counter)
    named = Counter()
    for row in rows:
        answer, n = found[row["drug_name"]], row.get("rows") or 1
        if row["hicl"] and row["drug_name"]:
            named[row["hicl"]] += n
            if answer.ingredients:
                meanings[row["hicl"]][frozenset(answer.ingredients)] += n
                orders[row["hicl"], frozenset(answer.ingredients)][answer.ingredients] += n
    learned = {}
    for hicl, counts in meanings.items():
        ingredients, n = counts.most_common(1)[0]
        if named[hicl] >= HICL_ROWS and n >= HICL_SHARE * named[hicl]:
            learned[hicl] = max(orders[hicl, ingredients].items(), key=lambda item: (item[1], item[0]))[0][0]
    return learned


def read_drug_concepts(con: ibis.BaseBackend) -> ibis.Table:
    """RxNorm's ingredients, clinical drugs and brands, and the ingredients of RxNorm Extension."""
    concept = athena.valid_rows(athena.read_vocabulary_table(con, "concept"))
    of_rxnorm = (concept.vocabulary_id == "RxNorm") & concept.concept_class_id.isin([*DRUG_CLASSES, *BRAND_CLASSES])
    of_extension = (concept.vocabulary_id == "RxNorm Extension") & (concept.concept_class_id == "Ingredient")
    drugs = concept.filter(of_rxnorm | of_extension)
    return drugs.select("concept_id", "concept_name", "vocabulary_id", "concept_class_id", "standard_concept")


def read_drug_vocabulary(con: ibis.BaseBackend) -> DrugVocabulary:
    """The drug concepts with their synonyms and brands, and the spellings of drug_names.csv."""
    drugs = read_drug_concepts(con)
    ids = drugs.select("concept_id")
    synonym = athena.read_vocabulary_table(con, "concept_synonym")
    synonyms = [] if synonym is None else synonym.semi_join(ids, "concept_id").select("concept_id", "concept_synonym_name").to_pyarrow().to_pylist()
    links = athena.valid_rows(athena.read_vocabulary_table(con, "concept_relationship"))
    links = links.filter(links.relationship_id.isin(["Tradename of", "Brand name of"])).select("concept_id_1", "concept_id_2")
    links = links.semi_join(drugs.filter(drugs.concept_class_id == "Brand Name"), links.concept_id_1 == drugs.concept_id).to_pyarrow().to_pylist()
    return DrugVocabulary(
        concepts=drugs.order_by("concept_id").to_pyarrow().to_pylist(),
        synonyms=[(s["concept_id"], s["concept_synonym_name"]) for s in synonyms],
        links=sorted((link["concept_id_1"], link["concept_id_2"]) for link in links),
        spellings=[(r["spelling"], r["kind"], [n for n in r["ingredients"].split(" / ") if n]) for _, r in read_rows("drug_names.csv")],
    )


# ---- measurements ------------------------------------------------------------------------------------------------------

MEASUREMENTS = pa.schema(
    {
        "source": pa.string(),
        "name": pa.string(),
        "unit": pa.string(),
        "concept_id": pa.int64(),
        "factor": pa.float64(),
        "to_unit": pa.string(),
        "unit_concept_id": pa.int64(),
        "status": pa.string(),
    }
)


def map_measurements(con: ibis.BaseBackend) -> pa.Table:
    """source, name, unit, concept_id, factor, to_unit, unit_concept_id, status of measurements.csv and measurements_by_code.csv.

    value * factor is the value in to_unit. That is the unit as records spell MIMIC's (sources/columns.py: a unit_concept_id as text where
    MIMIC has one, else its text), so that deciles of one hospital are another's; take it as it is, and look for no other id.

    unit is null in the row for any unit, the first of a name. A row with a unit is for what the hospital's own labmeasurenameinterface
    says where that differs from eICU's labmeasurenamesystem: 75 of the demo's 90 values of ionized calcium are mmol/L by the one, and
    mg/dL by the other.
    """
    rows, known = [], CheckedConcepts(con, "measurements.csv")
    for line, row in read_rows("measurements.csv"):
        known.expect(line, row["concept_id"], row["concept_name"])
        rows.append({**measurement_row(line, row, "measurements.csv"), "concept_id": int(row["concept_id"])})
    by_code = read_rows("measurements_by_code.csv")
    codes = known.find_codes({(row["vocabulary_id"], row["concept_code"]) for _, row in by_code})
    for line, row in by_code:
        concept_id = codes.get((row["vocabulary_id"], row["concept_code"]))
        rows.append({**measurement_row(line, row, "measurements_by_code.csv"), "concept_id": concept_id})
    status, seen = known.check(), set()
    for row in rows:
        row["status"] = ABSENT if row["concept_id"] is None else status.get(row["concept_id"], MAPPED)
        if (row["source"], row["name"]) not in seen:
            row["unit"] = None
        seen.add((row["source"], row["name"]))
    return pa.Table.from_pylist(rows, schema=MEASUREMENTS)


def names_by_code() -> set[str]:
    """The names, in lower case, whose concept is looked up by its code: one that has none is of a code that the vocabulary lacks."""
    return {row["source_name"].lower() for _, row in read_rows("measurements_by_code.csv") if row["concept_code"]}


def measurement_row(line: int, row: dict, file: str) -> dict:
    try:
        factor = float(row["factor"])
    except ValueError:
        raise UserError(f"{display(file)} line {line}: factor {row['factor']!r} is no number; write what a value is multiplied by") from None
    unit_id = row["to_unit_concept_id"]
    return {
        "source": row["source_table"],
        "name": row["source_name"],
        "unit": row["unit"] or None,
        "factor": factor,
        "to_unit": unit_id or row["to_unit"] or NO_UNIT,
        "unit_concept_id": int(unit_id) if unit_id else None,
    }


def read_value_rules() -> list[dict]:
    """source, name, above, up_to, factor, add of value_rules.csv: a value of the name, in to_unit, that is more than `above` and at most `up_to` is
    factor * value + add, and no value where factor is null. Of several rules the first that fits counts; a bound that is null is none."""
    numbers, found = ("above", "up_to", "factor", "add"), []
    for line, row in read_rows("value_rules.csv"):
        try:
            told = {name: float(row[name]) if row[name] else None for name in numbers}
        except ValueError:
            raise UserError(f"{display('value_rules.csv')} line {line}: {', '.join(numbers)} must be numbers or empty") from None
        found.append({"source": row["source_table"].lower(), "name": row["source_name"].lower()} | told)
    return found


# ---- paths ---------------------------------------------------------------------------------------------------------------


def map_treatments(con: ibis.BaseBackend) -> pa.Table:
    """path (treatment.treatmentstring), concept_id, status; a drug's or a consultation's path has no procedure and no concept."""
    return map_paths(con, "treatments.csv")


def map_history(con: ibis.BaseBackend) -> pa.Table:
    """path (pastHistory.pasthistorypath), concept_id, status."""
    return map_paths(con, "past_history.csv")


def map_admission_diagnoses(con: ibis.BaseBackend) -> pa.Table:
    """path (admissionDx.admitdxpath), concept_id, status."""
    return map_paths(con, "admission_diagnoses.csv")


def map_paths(con: ibis.BaseBackend, file: str) -> pa.Table:
    known, rows = CheckedConcepts(con, file), []
    for line, row in read_rows(file):
        if row["concept_id"]:
            known.expect(line, row["concept_id"], row["concept_name"])
        rows.append({"path": row["path"], "concept_id": int(row["concept_id"]) if row["concept_id"] else None})
    status = known.check()
    for row in rows:
        row["status"] = NO_CONCEPT if row["concept_id"] is None else status.get(row["concept_id"], MAPPED)
    return pa.Table.from_pylist(rows, schema=pa.schema({"path": pa.string(), "concept_id": pa.int64(), "status": pa.string()}))


def paths_without_concept() -> set[str]:
    """The paths, in lower case, that stand in the files without a concept: a person looked at them, and the note beside them says why."""
    files = ("treatments.csv", "past_history.csv", "admission_diagnoses.csv")
    return {row["path"].lower() for file in files for _, row in read_rows(file) if not row["concept_id"]}


# ---- the files of configs/hospitals/eicu ---------------------------------------------------------------------------------


def display(file: str) -> str:
    return f"configs/hospitals/eicu/{file}"


def read_rows(file: str) -> list[tuple[int, dict]]:
    """(line, row) of a file; a name that stands twice is a UserError, as one of its concepts would be lost."""
    with open(FOLDER / file, encoding="utf-8", newline="") as text:
        rows = list(enumerate(csv.DictReader(text), start=2))
    seen = {}
    for line, row in rows:
        key = tuple(row[name] for name in ("source_table", "source_name", "unit", "above", "up_to", "path", "spelling") if name in row)
        if key in seen:
            raise UserError(f"{display(file)} lines {seen[key]} and {line} both are of {' '.join(key)}: keep one of them")
        seen[key] = line
    return rows


@dataclass
class CheckedConcepts:
    """The concepts that a file names, to be compared with CONCEPT."""

    con: ibis.BaseBackend
    file: str

    def __post_init__(self):
        self.expected: dict[int, tuple[int, str]] = {}

    def expect(self, line: int, concept_id: str, name: str):
        if not concept_id.isdigit():
            raise UserError(f"{display(self.file)} line {line}: concept_id {concept_id!r} is no number; write the concept's id")
        self.expected.setdefault(int(concept_id), (line, name))

    def find_codes(self, codes: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """{(vocabulary_id, concept_code): concept_id} of those standard concepts that this vocabulary has."""
        concept = athena.read_vocabulary_table(self.con, "concept")
        wanted = concept.filter(concept.concept_code.isin(sorted({code for _, code in codes if code})) & (concept.standard_concept == "S"))
        found = wanted.select("vocabulary_id", "concept_code", "concept_id").to_pyarrow().to_pylist()
        return {(f["vocabulary_id"], f["concept_code"]): f["concept_id"] for f in found if (f["vocabulary_id"], f["concept_code"]) in codes}

    def check(self) -> dict[int, str]:
        """{concept_id: ABSENT} of those that CONCEPT lacks; prints those whose name is another or that are not standard."""
        concept = athena.read_vocabulary_table(self.con, "concept")
        found = concept.filter(concept.concept_id.isin(sorted(self.expected))).select("concept_id", "concept_name", "standard_concept")
        found = {f["concept_id"]: f for f in found.to_pyarrow().to_pylist()}
        standard = self.map_to_themselves([i for i, f in found.items() if f["standard_concept"] != "S"])
        for concept_id, (line, name) in self.expected.items():
            f = found.get(concept_id)
            if f and f["concept_name"] != name:
                print_line(
                    f"{display(self.file)} line {line}: concept {concept_id} is {f['concept_name']!r} in CONCEPT, not {name!r}: is it the one?"
                )
            if f and f["standard_concept"] != "S" and concept_id not in standard:
                print_line(f"{display(self.file)} line {line}: concept {concept_id}, {name!r}, is not standard in CONCEPT: see what it maps to")
        return {i: ABSENT for i in self.expected if i not in found}

    def map_to_themselves(self, ids: list[int]) -> set[int]:
        """Those of `ids` that are their own target: a subset of Athena may have lost the flag, not the link."""
        if not ids:
            return set()
        links = athena.read_vocabulary_table(self.con, "concept_relationship")
        own = links.filter((links.concept_id_1 == links.concept_id_2) & (links.relationship_id == "Maps to") & links.concept_id_1.isin(ids))
        return set(own.concept_id_1.execute())


def apply_rules(name: ibis.Value, value: ibis.Value, rules: list[dict]) -> ibis.Value:
    """`value` after read_value_rules: what is in another unit than it is told in, or is no value."""
    cases = []
    for rule in rules:
        fits = name.lower() == rule["name"]
        fits = fits if rule["above"] is None else fits & (value > rule["above"])
        fits = fits if rule["up_to"] is None else fits & (value <= rule["up_to"])
        cases.append((fits.fill_null(False), ibis.null("float64") if rule["factor"] is None else value * rule["factor"] + rule["add"]))
    return ibis.cases(*cases, else_=value) if cases else value
