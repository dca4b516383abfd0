"""Values of a MEDS dataset's measurements: from numeric_value, text_value and what a code says of its unit."""

import ibis

from medrep.cdm.eicu import concept_maps, meds_names
from medrep.cdm.parsing import normalize_number, parse_measured_value, parse_number
from medrep.cdm.sources.columns import NO_UNIT
from medrep.settings import HospitalConfig

NO_VALUES = {
    "found_value": ibis.null("float64"),
    "found_operator": ibis.null("string"),
    "source_text": ibis.null("string"),
    "found_unit": ibis.null("string"),
}


def with_values(t: ibis.Table, settings: HospitalConfig, numbers_alone: bool = False) -> ibis.Table:
    """`t` with the columns NO_VALUES. A text_value, whose numbers are written with decimal_mark and thousands_mark, that tells the number of
    numeric_value, which has 32 bits, tells it with all its digits, and its operator; one that is no number, where there is no other, is
    source_text. numbers_alone: what stands behind an operator is no number."""
    t = t.mutate(number_text=normalize_number(t.text_value.strip(), settings.decimal_mark, settings.thousands_mark))
    text = t.number_text
    written = {"value": parse_number(text), "operator": ibis.null("string")} if numbers_alone else parse_measured_value(text)
    t = t.mutate(text_number=written["value"], text_operator=written["operator"])
    same = (t.text_number.cast("float32") == t.numeric_value.cast("float32")).fill_null(False)
    value = ibis.coalesce(t.value, ibis.ifelse(same | t.numeric_value.isnull(), t.text_number, t.numeric_value))
    from_text = t.value.isnull() & (same | t.numeric_value.isnull())
    if settings.code_names:
        value = concept_maps.apply_rules(t.value_name, value * t.factor.fill_null(1.0), meds_names.read_value_rules())
    t = t.mutate(found_value=value, written_operator=ibis.ifelse(from_text, t.text_operator, ibis.null("string")))
    own_unit = ibis.ifelse(t.is_own, t.unit, ibis.coalesce(t.unit, t.code_unit))
    if settings.unit_concepts:
        told = {name: str(concept) for name, concept in settings.unit_concepts.items()}
        own_unit = ibis.ifelse(t.is_own, t.unit, own_unit.substitute(told))
    no_text, is_none = ibis.null("string"), t.found_value.isnull()
    return t.mutate(
        found_operator=ibis.ifelse(is_none, no_text, ibis.coalesce(t.operator, t.written_operator)),
        source_text=ibis.ifelse(is_none, t.text_value.strip().nullif(""), no_text),
        found_unit=ibis.ifelse(is_none, no_text, own_unit.fill_null(NO_UNIT)),
    )
