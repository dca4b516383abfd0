"""Names in the codes of eICU_MEDS's dataset as concepts, by the same maps as those of eICU's tables.

    DIAGNOSIS//ICD//9//518.81, J96.00    the ICD-9 codes, or the ICD-10 codes where no ICD-9 code of the list leads to a standard concept
    LAB//sodium//mmol/L                  measurements.csv: the lab of that name, its factor and its unit
    VITALS//PERIODIC//HEARTRATE          the same: the column of vitalPeriodic or vitalAperiodic
    MEDICATION//STARTED//ASPIRIN 81 MG   as drug names are read (drug_names.py)
    TREATMENT//ENTERED//pulmonary|...    treatments.csv

Admission diagnoses are not read: their rows do not tell that the disease was there before. https://github.com/Medical-Event-Data-Standard/eICU_MEDS
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import ibis
import pyarrow as pa

from medrep.cdm.eicu import concept_maps, icd_codes

UNCONVERTED = ", unconverted"
"""Behind the unit of values that may be of another one."""


@dataclass(frozen=True)
class NamedCode:
    """What a code's name means."""

    concepts: list[int] = field(default_factory=list)
    codes: list[tuple[str, str]] = field(default_factory=list)
    """(vocabulary_id, concept_code), those that count first before the others."""
    factor: float = 1.0
    unit: str | None = None
    """The unit that value * factor is told in, as records spell it."""
    value_name: str | None = None
    """The name of the lab or vital sign in lower case, for read_value_rules."""
    domain: str | None = None
    """Of concepts that the vocabulary lacks."""


def read_names(con: ibis.BaseBackend, codes: Iterable[str]) -> dict[str, NamedCode]:
    """{code: what its name means} of those `codes` that have a name which is known."""
    parts = {code: code.split("//") for code in codes}
    measured = read_measurements(con)
    treatments = {row["path"].lower(): row["concept_id"] for row in concept_maps.map_treatments(con).to_pylist() if row["concept_id"] is not None}
    drugs = read_drugs(con, {part[2] for part in parts.values() if part[:2] == ["MEDICATION", "STARTED"] and len(part) > 2})
    found: dict[str, NamedCode] = {}
    for code, part in parts.items():
        name = part[-1]
        if part[:2] == ["DIAGNOSIS", "ICD"] and len(part) > 3:
            found[code] = NamedCode(codes=icd_codes.split_codes(name))
        elif part[0] in ("LAB", "VITALS") and (known := measured.get(measurement_key(part))):
            told = part[2] if part[0] == "LAB" and len(part) > 2 else ""
            found[code] = replace(known, unit=f"{told}{known.unit}") if (known.unit or "").startswith(UNCONVERTED) else known
        elif part[:2] == ["MEDICATION", "STARTED"] and name in drugs:
            found[code] = NamedCode(concepts=[drugs[name]], domain="drug")
        elif part[:2] == ["TREATMENT", "ENTERED"] and name.lower() in treatments:
            found[code] = NamedCode(concepts=[treatments[name.lower()]], domain="procedure")
    return found


def read_measurements(con: ibis.BaseBackend) -> dict[tuple[str, str], NamedCode]:
    """{(table, name), in lower case: what measurements.csv says of it}.

    A lab of several units is told in the one that the hospital's own system says, which the code does not: the code has eICU's. Where read_value_rules
    can tell the units apart by the value, they do; else the value stays as it is, with a unit of its own, and so deciles of its own.
    """
    rows: dict[tuple[str, str], list[dict]] = {}
    for row in concept_maps.map_measurements(con).to_pylist():
        if row["concept_id"] is not None:
            rows.setdefault((row["source"].lower(), row["name"].lower()), []).append(row)
    ruled = {(rule["source"], rule["name"]) for rule in read_value_rules()}
    found = {}
    for key, (row, *others) in rows.items():
        ambiguous = any(other["factor"] != row["factor"] for other in others)
        unit = UNCONVERTED if ambiguous and key not in ruled else row["to_unit"]
        factor = 1.0 if ambiguous else row["factor"]
        found[key] = NamedCode(concepts=[row["concept_id"]], factor=factor, unit=unit, value_name=key[1], domain="measurement")
    return found


def read_value_rules() -> list[dict]:
    """concept_maps.read_value_rules of the tables that eICU_MEDS reads."""
    return [rule for rule in concept_maps.read_value_rules() if rule["source"] in ("lab", "vitalaperiodic", "vitalperiodic")]


def measurement_key(part: list[str]) -> tuple[str, str]:
    """The table and name under which measurements.csv has a code of LAB or VITALS."""
    if part[0] == "LAB":
        return "lab", part[1].lower() if len(part) > 1 else ""
    table = {"PERIODIC": "vitalperiodic", "APERIODIC": "vitalaperiodic"}.get(part[1] if len(part) > 1 else "", "")
    return table, part[-1].lower().replace("pulm_art", "pa").replace("_", "")


def read_drugs(con: ibis.BaseBackend, names: set[str]) -> dict[str, int]:
    if not names:
        return {}
    asked = pa.table({"drug_name": pa.array(sorted(names), pa.string()), "hicl": pa.array([None] * len(names), pa.int64())})
    rows = concept_maps.map_drugs(con, asked).to_pylist()
    # map_drugs trims names
    found = {row["drug_name"].strip(): row["concept_id"] for row in rows if row["concept_id"] is not None}
    return {name: found[name.strip()] for name in names if name.strip() in found}
