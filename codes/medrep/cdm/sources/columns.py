"""What every source gives of a hospital: the columns of its tables, whatever the files or the database hold.

`unreadable` is the reason why a row can't be read, null where it can; its other columns may then be null. Read with `with_lines`, a
table also has `line` (int64: the row's line in its file, 1 being the header, if all lines are whole; 0 where a row is of no one line)
and `raw` (the row's fields as text).
"""

import ibis

EVENT_TABLES = {"condition": "condition_occurrence", "drug": "drug_exposure", "measurement": "measurement", "procedure": "procedure_occurrence"}
"""{domain: OMOP table}. Counts, rejects and messages call a table so, also where the source has other files."""
NO_UNIT = "none"
"""The unit of a value without one: pH and INR are values."""

PERSON = ibis.schema(
    {
        "person_id": "int64",
        "sex": "string",
        "race": "string",
        "year_of_birth": "int64",
        "source_id": "string",
        "trace_id": "string",
        "unreadable": "string",
    }
)
"""sex is M, F or U. race is the name of race_concept_id by data/concepts, else race_source_value, else `concept 8527`; null where the id
is 0 or absent. source_id is the id that the hospital itself gave; trace_id is MIMIC's subject_id in unofficial dumps, as text."""
BIRTH_YEAR = ibis.schema({"subject_id": "string", "year_of_birth": "int64", "unreadable": "string"})
"""From MIMIC-IV's own patients.csv. The ETL wrote anchor_year as year of birth in some versions and the right year in others: this file
settles it."""
DEATH = ibis.schema({"person_id": "int64", "date": "date", "time": "timestamp", "unreadable_time": "string", "unreadable": "string"})
"""time is null where only the day is known: a midnight is a day. unreadable_time is as in EVENT."""
VISIT = ibis.schema(
    {
        "visit_id": "int64",
        "person_id": "int64",
        "concept_id": "int64",
        "source_value": "string",
        "start_date": "date",
        "start_time": "timestamp",
        "end_date": "date",
        "end_time": "timestamp",
        "unreadable_start_time": "string",
        "unreadable_end_time": "string",
        "unreadable": "string",
    }
)
"""The times are null where only the day is known, both ends where the visit has none. The unreadable times are as in EVENT."""
EVENT = ibis.schema(
    {
        "person_id": "int64",
        "concept_id": "int64",
        "type_id": "int64",
        "from_billing_table": "boolean",
        "visit_id": "int64",
        "date": "date",
        "time": "timestamp",
        "value": "float64",
        "operator": "string",
        "unit": "string",
        "unreadable_time": "string",
        "unreadable_value": "string",
        "source_text": "string",
        "unreadable": "string",
    }
)
"""from_billing_table: whether the row says that it comes from a table of bills (hospital.billing_load_tables). time is null where only the
day is known; unreadable_time is the text of a datetime that is there and can't be read beside a date that can. value is value_as_number
where that is there, else value_source_value, if it is a number, maybe behind an operator (<, <=, =, >, >=); operator is that, else
operator_concept_id's, and null where there is no value. A value_as_number that is no number is unreadable_value, and no other column's
number stands in for it; a value_source_value that is none, where value_as_number is empty, is source_text. unit is unit_concept_id as
text (not 0), else unit_source_value, else NO_UNIT, and null where there is no value."""
SUBJECT_SPLIT = ibis.schema({"person_id": "int64", "given_split": "string"})
"""The splits that a hospital comes with, in our names; each person has one."""


def unreadable_reason(**required: ibis.Value) -> ibis.Value:
    """Which of the columns that a row can't do without has no readable value, in words; null where all have one."""
    return ibis.cases(*((value.isnull(), f"unreadable {name}") for name, value in required.items()), else_=ibis.null("string"))


def line_and_raw(table: ibis.Table) -> dict[str, ibis.Value]:
    """`line` and `raw` of a table that was read with them."""
    return {name: table[name] for name in ("line", "raw") if name in table.columns}
