"""What the codes of a MEDS dataset mean: concepts, units, and those that begin and end stays.

    describe_codes(con, "mimic_meds", ["DIAGNOSIS//ICD//9//4019", ...], settings)

A code may lead to concepts in these ways; the first that leads to a standard concept counts, else the first that leads to any:

    the hospital's mapping   code_mapping.csv: what it says of a code counts in any case
    its own name             201826, ICD10CM/E11.9 or ICD10CM//E11.9: a concept id, or vocabulary_id and concept_code
    parent_codes             of metadata/codes.parquet, which are names as above: of LAB//50912//mg/dL it is LOINC/2160-0
    code_vocabularies        patterns of configs/hospitals/NAME.yaml: DIAGNOSIS//ICD//9//(.+) is a code of ICD9CM
    code_names: eicu         names that eicu/meds_names.py knows: LAB//sodium//mmol/L

"Maps to" of data/concepts leads on to standard concepts, and a code that it leads to several is each of them, as in OMOP tables. Format:
https://github.com/Medical-Event-Data-Standard/meds
"""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from medrep import contract
from medrep.cdm import engine
from medrep.cdm.eicu import meds_names
from medrep.cdm.eicu.meds_names import NamedCode
from medrep.cdm.sources.athena import read_vocabulary_table, valid_rows
from medrep.contract import DOMAINS
from medrep.errors import UserError
from medrep.settings import HospitalConfig

CODES = ibis.schema(
    {
        "code": "string",
        "place": "int64",
        "role": "string",
        "day_only": "boolean",
        "listed": "boolean",
        "code_unit": "string",
        "factor": "float64",
        "value_name": "string",
        "code_concept_id": "int64",
        "domain": "string",
    }
)
"""A row a code and concept, place 0, 1, ... of one code; a code without a concept has one row. role is one of ROLES or null. day_only: whether an
event at 00:00:00 is known by its day. listed: whether the hospital's mapping says that it has no concept. A value times factor is told in
code_unit; value_name is of eicu/meds_names.py."""
ADMISSION, DISCHARGE, LEFT_OUT = ROLES = ("admission", "discharge", "left out")
READ_DOMAINS = (*DOMAINS, "visit", "race", "gender")
PERSON_NAMES = ("GENDER", "SEX", "RACE")
"""What the codes of persons begin with."""
MAPPING_FILE = "code_mapping.csv"
CODE_COLUMNS, ID_COLUMNS = ("code", "source_code"), ("concept_id", "target_concept_id")
"""Of a mapping: as unmapped_codes.csv has them, or as OMOP's SOURCE_TO_CONCEPT_MAP."""
NO_UNIT_TEXTS = ("", "UNK", "None", "null", "nan")
"""What extractions write into a code that has no unit."""
BY_MAPPING, BY_NAME, BY_PARENT, BY_PATTERN, BY_EICU_NAME, BY_SECOND_CODE = range(6)
NOT_STANDARD = 10  # a way that leads to a standard concept goes before all that lead to others


def codes_file(hospital: str) -> Path:
    return contract.data_folder(hospital) / "metadata" / "codes.parquet"


def mapping_file(hospital: str, settings: HospitalConfig) -> Path | None:
    """The hospital's mapping, if there is one; one that the settings name must be there."""
    path = contract.data_folder(hospital) / (settings.code_mapping or MAPPING_FILE)
    if path.is_file():
        return path
    if settings.code_mapping:
        raise UserError(
            f"{contract.display_path(path)} is missing: configs/hospitals/{hospital}.yaml names it as code_mapping; a path there is "
            f"below {contract.display_path(contract.data_folder(hospital))}"
        )
    return None


# ---- the ways from a code to concepts ------------------------------------------------------------------------


def read_mapping(path: Path) -> dict[str, list[int]]:
    """{code: concept ids, none where it says 0}. A row without an id says nothing."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text, strict=True)  # else a quote that nobody closes takes all that follows for one code
            names = {(name or "").strip().lower(): name for name in reader.fieldnames or []}
            code = next((names[name] for name in CODE_COLUMNS if name in names), None)
            concept = next((names[name] for name in ID_COLUMNS if name in names), None)
            if code is None or concept is None:
                raise UserError(f"{contract.display_path(path)} must have the columns code and concept_id; it has {', '.join(names) or 'none'}")
            found: dict[str, list[int]] = {}
            for row in reader:
                told = (row[concept] or "").strip()
                if not told:
                    continue
                if not re.fullmatch(r"\d{1,18}(\.0*)?", told):
                    raise UserError(
                        f"{contract.display_path(path)} line {reader.line_num}: concept_id {told[:40]!r} is no number; write the concept's id, 0 for a "
                        "code that has none, or nothing"
                    )
                ids = found.setdefault(row[code] or "", [])
                if concept_id := int(told.partition(".")[0]):
                    ids.append(concept_id)
            return found
    except UnicodeDecodeError:
        raise UserError(f"{contract.display_path(path)} is not UTF-8: save it as CSV in UTF-8") from None
    except csv.Error as problem:
        raise UserError(
            f"{contract.display_path(path)} is no CSV up to its end ({problem}): look for a quote that opens and does not close, and double the "
            'quotes inside a quoted code ("")'
        ) from None


def read_parents(hospital: str) -> dict[str, list[str]]:
    """{code: its parent_codes} of metadata/codes.parquet; none where that is absent or has none."""
    path = codes_file(hospital)
    if not path.is_file():
        return {}
    try:
        if not {"code", "parent_codes"} <= set(pq.read_schema(path).names):
            return {}
        table = pq.read_table(path, columns=["code", "parent_codes"])
    except (pa.ArrowInvalid, OSError):
        raise UserError(f"{contract.display_path(path)} is not a parquet file: write it again") from None
    found: dict[str, list[str]] = {}
    for row in table.to_pylist():
        parents = row["parent_codes"] or []
        parents = parents if isinstance(parents, list) else [parents]
        if wrong := next((parent for parent in parents if parent and not isinstance(parent, str)), None):
            raise UserError(f"{contract.display_path(path)} has {wrong!r} among parent_codes: MEDS has lists of strings there; write it so")
        if not isinstance(row["code"], str | None):
            raise UserError(f"{contract.display_path(path)} has {row['code']!r} as code: MEDS has strings there; write it so")
        found.setdefault(row["code"], []).extend(parent for parent in parents if parent)
    return found


def compile_pattern(setting: str, pattern: str, groups: int = 0) -> re.Pattern | None:
    """A regular expression of the settings; None for an empty one."""
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as problem:
        raise UserError(f"hospital.{setting} has {pattern!r}, which is no regular expression: {problem}") from None
    if compiled.groups < groups:
        raise UserError(f"hospital.{setting} has {pattern!r} without a group: put what it is to find into parentheses")
    return compiled


def patterns_of_persons(settings: HospitalConfig) -> dict[str, str]:
    """Of code_vocabularies those that may say what a person's code means, as of race: all but those that begin with other letters."""
    found = {}
    for pattern, vocabulary in settings.code_vocabularies.items():
        letters = re.match(r"\^([A-Za-z]+)(?![A-Za-z?*{])", pattern)
        begin = letters[1].upper() if letters and "|" not in pattern else ""
        if any(name.startswith(begin) or begin.startswith(name) for name in PERSON_NAMES):
            found[pattern] = vocabulary
    return found


def parse_reference(text: str) -> int | str | None:
    """The concept id, or the `vocabulary_id/concept_code` that data/concepts is asked for, of a code's name; None where it is neither."""
    if text.isdecimal() and text.isascii():
        return int(text)
    vocabulary, slash, code = text.replace("//", "/").partition("/")
    return concept_key(vocabulary, code) if slash and code else None


def concept_key(vocabulary: str, code: str) -> str:
    """How a concept is called here. ICD codes are told with and without their dot; numbers that NDC codes were read as have lost their first zeros
    (one of nine digits may be a product's)."""
    if vocabulary.startswith("ICD"):
        code = code.replace(".", "").upper()
    if vocabulary == "NDC" and code.isdecimal() and len(code) != 9:
        code = code.zfill(11)
    return f"{vocabulary}/{code}"


def find_references(
    code: str, mapping: dict[str, list[int]], parents: dict[str, list[str]], patterns: list[tuple[re.Pattern, str]], named: NamedCode | None
) -> Iterator[tuple[int, int | str]]:
    """(way, concept id or concept_key) of all that a code may stand for."""
    if code in mapping:
        yield from ((BY_MAPPING, concept) for concept in mapping[code])
        return
    if (own := parse_reference(code)) is not None:
        yield BY_NAME, own
    yield from ((BY_PARENT, reference) for parent in parents.get(code, []) if (reference := parse_reference(parent)) is not None)
    for pattern, vocabulary in patterns:
        if found := pattern.search(code):
            yield BY_PATTERN, concept_key(vocabulary, found[1])
    if named:
        yield from ((BY_EICU_NAME, concept) for concept in named.concepts)
        for vocabulary, own in named.codes:
            yield BY_EICU_NAME if vocabulary == named.codes[0][0] else BY_SECOND_CODE, concept_key(vocabulary, own)


# ---- what the dataset's codes mean ---------------------------------------------------------------------------


def describe_codes(con: ibis.BaseBackend, hospital: str, codes: Iterable[str | None], settings: HospitalConfig) -> ibis.Table:
    """CODES of distinct `codes`. con reads files."""
    codes = sorted({code for code in codes if code is not None})
    path = mapping_file(hospital, settings)
    mapping, parents = read_mapping(path) if path else {}, read_parents(hospital)
    patterns = [(compile_pattern("code_vocabularies", text, groups=1), vocabulary) for text, vocabulary in settings.code_vocabularies.items()]
    patterns = [(pattern, vocabulary) for pattern, vocabulary in patterns if pattern]
    named = meds_names.read_names(con, codes) if settings.code_names == "eicu" and contract.concepts_folder().is_dir() else {}
    references = [(code, way, reference) for code in codes for way, reference in find_references(code, mapping, parents, patterns, named.get(code))]
    found = find_concepts(con, references)
    rows = engine.materialize(con, describe_each(codes, mapping, named, settings))
    described = rows.left_join(found, "code").drop("code_right")
    domain = ibis.ifelse(described.code_concept_id.notnull(), ibis.coalesce(described.domain, described.named_domain), ibis.null("string"))
    return engine.materialize(con, described.mutate(place=described.place.fill_null(0), domain=domain).select(*CODES.names).cast(CODES))


def describe_each(codes: list[str], mapping: dict[str, list[int]], named: dict[str, NamedCode], settings: HospitalConfig) -> ibis.Table:
    """The columns of CODES but place, code_concept_id and domain, which is named_domain of what only eICU's names tell: all that is told of each code
    without concepts."""
    roles = [(role, compile_pattern(f"{name}_codes", getattr(settings, f"{name}_codes"))) for role, name in zip(ROLES, ROLE_SETTINGS, strict=True)]
    day_only, unit = compile_pattern("day_only_codes", settings.day_only_codes), compile_pattern("unit_pattern", settings.unit_pattern, groups=1)

    def find_unit(code: str) -> str | None:
        if code in named and named[code].unit:
            return named[code].unit
        found = unit.search(code) if unit else None
        text = (found[1] or "").strip() if found else ""
        return None if text in NO_UNIT_TEXTS else str(settings.unit_concepts.get(text, text))

    return ibis.memtable(
        pa.table(
            {
                "code": pa.array(codes, pa.string()),
                "role": pa.array([next((role for role, pattern in roles if pattern and pattern.search(code)), None) for code in codes], pa.string()),
                "day_only": pa.array([bool(day_only and day_only.search(code)) for code in codes], pa.bool_()),
                "listed": pa.array([mapping.get(code) == [] for code in codes], pa.bool_()),
                "code_unit": pa.array([find_unit(code) for code in codes], pa.string()),
                "factor": pa.array([named[code].factor if code in named else 1.0 for code in codes], pa.float64()),
                "named_domain": pa.array([named[code].domain if code in named else None for code in codes], pa.string()),
                "value_name": pa.array([named[code].value_name if code in named else None for code in codes], pa.string()),
            }
        )
    )


ROLE_SETTINGS = ("admission", "discharge", "left_out")


def find_concepts(con: ibis.BaseBackend, references: list[tuple[str, int, int | str]]) -> ibis.Table:
    """code, place, code_concept_id and domain of the concepts that (code, way, reference) lead to."""
    by_id = [(code, way, reference) for code, way, reference in references if isinstance(reference, int)]
    by_key = [(code, way, reference) for code, way, reference in references if isinstance(reference, str)]
    numbers = ibis.memtable(by_id, schema={"code": "string", "way": "int64", "concept_id": "int64"})
    if not contract.concepts_folder().is_dir():
        place = ibis.row_number().over(group_by=numbers.code, order_by=[numbers.way, numbers.concept_id])
        return numbers.select("code", place=place, code_concept_id="concept_id", domain=ibis.null("string"))
    concept, relationship = read_vocabulary_table(con, "concept"), valid_rows(read_vocabulary_table(con, "concept_relationship"))
    is_standard = concept.standard_concept == "S" if "standard_concept" in concept.columns else ibis.literal(False)
    concept = concept.mutate(is_standard=is_standard.fill_null(False), domain=concept.domain_id.lower())
    keys = ibis.memtable(by_key, schema={"code": "string", "way": "int64", "key": "string"})
    plain = ibis.ifelse(concept.vocabulary_id.startswith("ICD"), concept.concept_code.replace(".", ""), concept.concept_code)
    named = concept.mutate(key=concept.vocabulary_id + "/" + plain)
    columns = ("code", "way", "concept_id", "is_standard")
    numbered = numbers.left_join(concept, "concept_id")  # an id that this vocabulary lacks is one all the same
    numbered = numbered.mutate(is_standard=numbered.is_standard.fill_null(False)).select(*columns)
    found = engine.materialize(con, ibis.union(keys.join(named, "key").select(*columns), numbered))
    maps = relationship.filter(relationship.relationship_id == "Maps to").select("concept_id_1", "concept_id_2")
    found = found.mutate(source=ibis.ifelse(found.is_standard, ibis.null("int64"), found.concept_id))
    led = found.left_join(maps, found.source == maps.concept_id_1)
    target = ibis.coalesce(led.concept_id_2, led.concept_id)
    way = led.way + ibis.ifelse(led.is_standard | led.concept_id_2.notnull(), 0, NOT_STANDARD)
    led = engine.materialize(con, led.select("code", way=way, code_concept_id=target).distinct())
    domains = concept.select("domain", code_concept_id="concept_id")
    return select_mapping(led.left_join(domains, "code_concept_id").select("code", "way", "code_concept_id", "domain"))


def select_mapping(found: ibis.Table) -> ibis.Table:
    """Of `found` (code, way, code_concept_id, domain) what counts: a code's first way, and there the domains that are read, if it has any."""
    found = found.mutate(is_read=found.domain.isin(READ_DOMAINS).fill_null(False))
    first = found.mutate(first=found.way.min().over(group_by="code"))
    first = first.filter(first.way == first["first"])
    any_read = first.mutate(any_read=first.is_read.max().over(group_by="code"))
    kept = any_read.filter(any_read.is_read == any_read.any_read)
    place = ibis.row_number().over(group_by=kept.code, order_by=kept.code_concept_id)
    return kept.select("code", "code_concept_id", "domain", place=place)
