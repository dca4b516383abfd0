"""MEASUREMENT of eICU: labs, vital signs, charted values, weight and height, and the variables of APACHE.

    table            known                                                              a row of the table gives
    lab, customLab   when it was last revised: a result comes after its sample. Of a    one
                     series that was revised at once the newest result stays
    vitalPeriodic    at its time; of each variable the first value of a clock hour      one a variable and hour: the table has a row in 5 minutes
    vitalAperiodic   at its time                                                        one a variable
    nurseCharting    when it is entered; only what concept_maps has a concept of        one
    apacheApsVar     in the last second of the first 24 hours, of which it has the      one a variable; -1 is none
                     worst values, so that they are seen at 24 hours and no sooner
    patient          height and weight, likewise: it is not told when they were taken    one each

Concepts, and factors to the unit that values are told in, are concept_maps.map_measurements'; what is plainly in another unit or no value is mended by
configs/hospitals/eicu/value_rules.csv. The worst of a day has a unit of its own, so that it has deciles of its own and blurs no others. Columns of a
wide table without a concept are variables that are not read; a lab without one is a row with concept 0.
"""

from functools import reduce

import ibis

from medrep.cdm import engine, table_files
from medrep.cdm.eicu import concept_maps, files
from medrep.cdm.eicu.events import NO_CONCEPT, EventReader, event_columns, event_id
from medrep.cdm.parsing import OPERATOR_CONCEPTS, parse_id, parse_measured_value, parse_number
from medrep.cdm.sources.columns import NO_UNIT
from medrep.progress import print_line

LAB_TYPE, EXAMINATION, ALGORITHM, EHR = 32856, 32836, 32882, 32817
LAB, PERIODIC, APERIODIC, CHARTED, APACHE, ADMISSION, CUSTOM = 1, 2, 3, 4, 5, 6, 7
"""Of event_id."""
NO_NAME, NO_VALUE, OLDER_RESULT = "no name", "no value", "a newer result is known at the same time"
APACHE_HOURS = 24
PART_BYTES = 4_000_000_000
"""Of text of vitalPeriodic that is thinned out at once."""


def read_measurements(reader: EventReader) -> list[ibis.Table]:
    names = Names(reader.con)
    tables = [
        read_labs(reader, names),
        read_custom_labs(reader, names),
        read_wide(reader, names, "vitalPeriodic", PERIODIC),
        read_wide(reader, names, "vitalAperiodic", APERIODIC),
        read_charting(reader, names),
        read_apache(reader, names),
        read_admission_values(reader, names),
    ]
    return [table for table in tables if table is not None]


FACTS = {"concept_id": "int64", "factor": "float64", "to_unit": "string"}
"""What concept_maps says of a name. to_unit is the concept of a unit as text, or a unit that has none."""


class Names:
    """concept_maps' names of measurements."""

    def __init__(self, con: ibis.BaseBackend):
        rows = [row for row in concept_maps.map_measurements(con).to_pylist() if row["concept_id"] is not None]
        self.rules = concept_maps.read_value_rules()
        self.facts = {(row["source"].lower(), row["name"].lower(), (row["unit"] or "").lower()): [row[fact] for fact in FACTS] for row in rows}

    def of(self, source: str) -> list[str]:
        """The names of a table's values that have a concept, in lower case."""
        return sorted({name for table, name, _ in self.facts if table == source.lower()})

    def join(self, rows: ibis.Table, source: str) -> ibis.Table:
        """`rows` (name, own_unit, value) with FACTS: those of a name in the hospital's own unit, else in any; null where the name has no concept.

        value is then told in to_unit.
        """
        asked = rows.select("name", "own_unit").distinct().order_by("name", "own_unit").to_pyarrow().to_pylist()
        told = []
        for row in asked:
            key, own_unit = (source.lower(), row["name"].lower()), row["own_unit"] or ""
            facts = self.facts.get((*key, own_unit.lower())) or self.facts.get((*key, ""))
            if facts:
                told.append({"name_key": row["name"], "unit_key": own_unit} | dict(zip(FACTS, facts, strict=True)))
        known = ibis.memtable(told, schema={"name_key": "string", "unit_key": "string"} | FACTS)
        rows = rows.mutate(unit_key=rows.own_unit.fill_null(""))  # a join passes nulls over
        rows = rows.left_join(known, [rows.name == known.name_key, rows.unit_key == known.unit_key])
        value = rows.value * rows.factor.fill_null(1.0)
        rows = rows.mutate(value=value).drop("name_key", "unit_key", "unit_key_right")
        return rows.mutate(value=concept_maps.apply_rules(rows.name, rows.value, [rule for rule in self.rules if rule["source"] == source.lower()]))


def measurement_rows(rows: ibis.Table, table: int, type_id: int) -> ibis.Table:
    """`rows` with row_id, place, name, unit, value, operator, text and what with_concepts adds, as MEASUREMENT."""
    operators = {text: concept for concept, text in OPERATOR_CONCEPTS.items()}
    unit_id = parse_id(rows.to_unit)
    unit = ibis.ifelse(unit_id.isnull(), rows.to_unit.nullif(NO_UNIT), ibis.null("string"))
    return rows.select(
        measurement_id=event_id(rows.row_id, table, rows.place),
        measurement_concept_id=rows.concept_id.fill_null(0),
        **event_columns(rows, "measurement", "measurement", type_id),
        operator_concept_id=rows.operator.substitute(operators, else_=ibis.null("int64")).cast("int64"),
        value_as_number=rows.value,
        unit_concept_id=unit_id,
        unit_source_value=ibis.ifelse(rows.concept_id.isnull(), rows.unit, unit),
        value_source_value=rows.text,
        measurement_source_value=rows.name,
    )


def long_rows(rows: ibis.Table, row_id: ibis.Value, name: ibis.Value, value: dict[str, ibis.Value], text: ibis.Value, place=0, **units):
    """One value a row: what Names.join and measurement_rows need."""
    return rows.select(
        "person_id",
        "time",
        "visit_id",
        "unit_id",
        row_id=row_id,
        place=ibis.literal(place, "int64"),
        name=name,
        unit=units.get("unit", ibis.null("string")),
        own_unit=units.get("own_unit", ibis.null("string")),
        value=value["value"],
        operator=value["operator"],
        text=text,
    )


def result_value(number: ibis.Value, text: ibis.Value) -> dict[str, ibis.Value]:
    """{value, operator} of a result: its number, else the one in its text; the operator is the text's, if it is of that number."""
    told, number = parse_measured_value(text), parse_number(number)
    value = ibis.coalesce(number, told["value"])
    return {"value": value, "operator": ibis.ifelse(told["value"] == value, told["operator"], ibis.null("string"))}


def read_labs(reader: EventReader, names: Names) -> ibis.Table | None:
    def left_out(rows):
        # all of them would stand at one moment, and records.py would keep the least of them
        sampled = parse_id(rows.labresultoffset)
        newest = sampled.max().over(group_by=[rows[files.STAY_COLUMN], rows.labname, rows.time, rows.reason.isnull()])
        return {NO_NAME: rows.labname.isnull(), OLDER_RESULT: sampled < newest}

    rows = reader.read("lab", ["labresultoffset", "labresultrevisedoffset"], left_out, (NO_NAME, OLDER_RESULT))
    if rows is None:
        return None
    value, text = result_value(rows.labresult, rows.labresulttext), ibis.coalesce(rows.labresult, rows.labresulttext)
    units = {"unit": rows.labmeasurenamesystem, "own_unit": rows.labmeasurenameinterface}
    found = long_rows(rows, parse_id(rows.labid), rows.labname, value, text, **units)
    return measurement_rows(names.join(found, "lab"), LAB, LAB_TYPE)


def read_custom_labs(reader: EventReader, names: Names) -> ibis.Table | None:
    rows = reader.read("customLab", ["labotheroffset"], lambda rows: {NO_NAME: rows.labothername.isnull()}, (NO_NAME,))
    if rows is None:
        return None
    value, text = result_value(rows.labotherresult, rows.labothervaluetext), ibis.coalesce(rows.labotherresult, rows.labothervaluetext)
    found = long_rows(rows, parse_id(rows.customlabid), rows.labothername, value, text)
    return measurement_rows(names.join(found, "customLab"), CUSTOM, LAB_TYPE)


def charted_name(rows: ibis.Table) -> ibis.Value:
    """What a nurse charted: the name of the cell, or its label where the name is only `Value`."""
    name, label = rows.nursingchartcelltypevalname, rows.nursingchartcelltypevallabel
    return ibis.ifelse((name.lower() == "value").fill_null(True), label, name)


def read_charting(reader: EventReader, names: Names) -> ibis.Table | None:
    known = names.of("nurseCharting")

    def left_out(rows):
        text = rows.nursingchartvalue
        return {NO_CONCEPT: ~charted_name(rows).lower().isin(known).fill_null(False), NO_VALUE: parse_measured_value(text)["value"].isnull()}

    offsets = ["nursingchartoffset", "nursingchartentryoffset"]
    rows = reader.read("nurseCharting", offsets, left_out, (NO_CONCEPT, NO_VALUE), charted_name)
    if rows is None:
        return None
    value = parse_measured_value(rows.nursingchartvalue)
    found = long_rows(rows, parse_id(rows.nursingchartid), charted_name(rows), value, rows.nursingchartvalue)
    return measurement_rows(names.join(found, "nurseCharting"), CHARTED, EXAMINATION)


def read_wide(reader: EventReader, names: Names, table: str, number: int, no_value: float | None = None, type_id: int = EHR) -> ibis.Table | None:
    """A table with a column a variable; `no_value` stands there for none. APACHE variables move to the end of their first 24 hours."""
    known = names.of(table)
    id_column, *_, last = files.TABLES[table]

    def left_out(rows):
        texts = [rows[name] for name in known if name in rows.columns]
        told = [text.notnull() if no_value is None else number_of(text, no_value).notnull() for text in texts]
        return {NO_VALUE: ~ibis.or_(*told) if told else ibis.literal(True)}

    rows = reader.read(table, [last] if last != files.STAY_COLUMN else [], left_out, (NO_VALUE,))
    if rows is None:
        return None
    columns = [name for name in known if name in rows.columns]
    if not columns:
        return None
    rows = rows.select(
        "person_id", "visit_id", "unit_id", "time", row_id=parse_id(rows[id_column]), **{n: number_of(rows[n], no_value) for n in columns}
    )
    if table == "apacheApsVar":
        rows = rows.mutate(time=end_of_first_day(rows.time))
    found = keep_first_per_hour(reader, rows, columns, table) if table == "vitalPeriodic" else stack(rows, columns)
    return measurement_rows(names.join(found, table), number, type_id)


def end_of_first_day(unit_start: ibis.Value) -> ibis.Value:
    return unit_start + ibis.interval(seconds=APACHE_HOURS * 3600 - 1)


def number_of(text: ibis.Value, no_value: float | None) -> ibis.Value:
    number = parse_number(text)
    return number if no_value is None else number.nullif(no_value)


def read_apache(reader: EventReader, names: Names) -> ibis.Table | None:
    return read_wide(reader, names, "apacheApsVar", APACHE, no_value=-1.0, type_id=ALGORITHM)


def read_admission_values(reader: EventReader, names: Names) -> ibis.Table | None:
    columns = [name for name in ("admissionheight", "admissionweight") if name in names.of("patient")]
    if not columns:
        return None
    rows = reader.units.filter(reader.units.reason.isnull())
    numbers = {name: number_of(rows[name], 0.0) for name in columns}  # nobody weighs 0
    rows = rows.select("person_id", "visit_id", "unit_id", time=end_of_first_day(rows.unit_start), row_id="unit_id", **numbers)
    return measurement_rows(names.join(stack(rows, columns), "patient"), ADMISSION, EXAMINATION)


def stack(rows: ibis.Table, columns: list[str], of_hours: bool = False) -> ibis.Table:
    """The values of `columns` below one another, as long_rows. of_hours: they are as first_of_hours gives them."""
    none = ibis.null("string")
    parts = []
    for place, name in enumerate(columns):
        told = rows.filter(rows[name].notnull())
        if of_hours:
            told = told.select("unit_id", "person_id", **{field: told[name][field] for field in ("time", "row_id", "value", "visit_id")})
        value = {"value": told.value if of_hours else told[name], "operator": none}
        parts.append(long_rows(told, told.row_id, ibis.literal(name), value, none, place))
    return reduce(lambda one, other: one.union(other), parts)


def keep_first_per_hour(reader: EventReader, rows: ibis.Table, columns: list[str], table: str) -> ibis.Table:
    """Of each unit stay, column and clock hour the first value: records.py keeps no more of a person, and there are twelve an hour.

    Some stays at a time, as the hours of all would not fit into memory.
    """
    path = files.find_file(reader.hospital, table)
    parts = engine.number_of_parts(reader.con, table_files.estimate_text_size(path) if path else 0, PART_BYTES)
    found = [engine.materialize_as_parquet(reader.con, first_of_hours(rows.filter(rows.unit_id % parts == part), columns)) for part in range(parts)]
    stacked = reduce(lambda one, other: one.union(other), (stack(part, columns, of_hours=True) for part in found))
    print_line(f"{reader.hospital} {table}: {int(stacked.count().execute()):,} values stay, the first of each variable and hour")
    return stacked


def first_of_hours(rows: ibis.Table, columns: list[str]) -> ibis.Table:
    """A row an hour of a unit stay: of each column a struct of time, row_id, value and visit_id, of its first value there."""
    rows = rows.mutate(hour=rows.time.truncate("h"))
    told = {name: ibis.struct({"time": rows.time, "row_id": rows.row_id, "value": rows[name], "visit_id": rows.visit_id}) for name in columns}
    firsts = {name: value.min(where=rows[name].notnull()) for name, value in told.items()}
    return rows.group_by("unit_id", "person_id", "hour").agg(**firsts)
