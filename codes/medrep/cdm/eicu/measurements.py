"""MEASUREMENT of eICU: labs, vital signs, charted values, weight and height, and the variables of APACHE.

    table            known                                                              a row of the table gives
    lab              when it was last revised: a result comes after its sample          one
    vitalPeriodic    at its time; of each variable the first value of a clock hour      one a variable and hour: the table has a row in 5 minutes
    vitalAperiodic   at its time                                                        one a variable
    nurseCharting    when it is entered; only what concept_maps has a concept of        one
    apacheApsVar     in the last second of the first 24 hours, of which it has the      one a variable; -1 is none
                     worst values, so that they are seen at 24 hours and no sooner
    patient          height and weight, at the admission to the unit                    one each

Names, units and factors to the unit of the value are concept_maps.map_measurements'. Columns of a wide table without a concept are variables that
are not read; a lab without one is a row with concept 0.
"""

from functools import reduce

import ibis

from medrep.cdm import engine, table_files
from medrep.cdm.eicu import concept_maps, files
from medrep.cdm.eicu.events import NO_CONCEPT, EventReader, event_columns, event_id
from medrep.cdm.parsing import OPERATOR_CONCEPTS, parse_id, parse_measured_value, parse_number
from medrep.cdm.sources.athena import read_vocabulary_table
from medrep.progress import print_line

LAB_TYPE, EXAMINATION, ALGORITHM, EHR = 32856, 32836, 32882, 32817
LAB, PERIODIC, APERIODIC, CHARTED, APACHE, ADMISSION = 1, 2, 3, 4, 5, 6
"""Of event_id."""
NO_NAME, NO_VALUE = "no name", "no value"
APACHE_HOURS = 24
PART_BYTES = 4_000_000_000
"""Of text of vitalPeriodic that is thinned out at once."""


def read_measurements(reader: EventReader) -> list[ibis.Table]:
    names = find_names(reader.con)
    tables = [
        read_labs(reader, names),
        read_wide(reader, names, "vitalPeriodic", PERIODIC),
        read_wide(reader, names, "vitalAperiodic", APERIODIC),
        read_charting(reader, names),
        read_apache(reader, names),
        read_admission_values(reader, names),
    ]
    return [table for table in tables if table is not None]


def find_names(con: ibis.BaseBackend) -> ibis.Table:
    """source, name and unit (lower case; unit is null where any will do), concept_id, factor, to_unit and unit_concept_id, UCUM's of to_unit."""
    found = ibis.memtable(concept_maps.map_measurements(con).select(["source", "name", "unit", "concept_id", "factor", "to_unit"]))
    found = found.filter(found.concept_id.notnull())
    concept = read_vocabulary_table(con, "concept")
    units = concept.filter(concept.vocabulary_id == "UCUM").group_by(to_unit="concept_code").agg(unit_concept_id=concept.concept_id.min())
    found = found.left_join(units, "to_unit").drop("to_unit_right")
    return engine.materialize(con, found.mutate(source=found.source.lower(), name=found.name.lower(), unit=found.unit.lower().nullif("")))


def with_concepts(rows: ibis.Table, names: ibis.Table, source: str) -> ibis.Table:
    """`rows` (name, unit) with what `names` says: of its name and unit, else of its name in whatever unit."""
    rows = rows.mutate(name_key=rows.name.lower(), unit_key=rows.unit.lower())
    own = names.filter(names.source == source.lower())
    facts = ("concept_id", "factor", "to_unit", "unit_concept_id")
    exact = own.filter(own.unit.notnull()).select(name_key="name", unit_key="unit", **{f"exact_{fact}": own[fact] for fact in facts})
    loose = own.filter(own.unit.isnull()).select(name_key="name", **{f"loose_{fact}": own[fact] for fact in facts})
    rows = rows.left_join(exact, ["name_key", "unit_key"]).drop("name_key_right", "unit_key_right")
    rows = rows.left_join(loose, "name_key").drop("name_key_right")
    is_exact = rows.exact_concept_id.notnull()
    return rows.mutate(**{fact: ibis.ifelse(is_exact, rows[f"exact_{fact}"], rows[f"loose_{fact}"]) for fact in facts})


def measurement_rows(rows: ibis.Table, table: int, type_id: int) -> ibis.Table:
    """`rows` with row_id, place, name, unit, value, operator, text and what with_concepts adds, as MEASUREMENT."""
    operators = {text: concept for concept, text in OPERATOR_CONCEPTS.items()}
    return rows.select(
        measurement_id=event_id(rows.row_id, table, rows.place),
        measurement_concept_id=rows.concept_id.fill_null(0),
        **event_columns(rows, "measurement", "measurement", type_id),
        operator_concept_id=rows.operator.substitute(operators, else_=ibis.null("int64")).cast("int64"),
        value_as_number=rows.value * rows.factor.fill_null(1.0),
        unit_concept_id=rows.unit_concept_id,
        unit_source_value=ibis.coalesce(rows.to_unit, ibis.ifelse(rows.concept_id.isnull(), rows.unit, ibis.null("string"))),
        value_source_value=rows.text,
        measurement_source_value=rows.name,
    )


def long_rows(rows: ibis.Table, row_id: ibis.Value, name: ibis.Value, unit: ibis.Value, value: dict[str, ibis.Value], text: ibis.Value, place=0):
    """One value a row: what with_concepts and measurement_rows need."""
    return rows.select(
        "person_id",
        "time",
        "visit_id",
        "unit_id",
        row_id=row_id,
        place=ibis.literal(place, "int64"),
        name=name,
        unit=unit,
        value=value["value"],
        operator=value["operator"],
        text=text,
    )


def read_labs(reader: EventReader, names: ibis.Table) -> ibis.Table | None:
    rows = reader.read("lab", ["labresultoffset", "labresultrevisedoffset"], lambda rows: {NO_NAME: rows.labname.isnull()}, (NO_NAME,))
    if rows is None:
        return None
    text = ibis.coalesce(rows.labresult, rows.labresulttext)
    told = parse_measured_value(rows.labresulttext)
    number = ibis.coalesce(parse_number(rows.labresult), told["value"])
    value = {"value": number, "operator": ibis.ifelse(told["value"] == number, told["operator"], ibis.null("string"))}
    found = long_rows(rows, parse_id(rows.labid), rows.labname, rows.labmeasurenamesystem, value, text)
    return measurement_rows(with_concepts(found, names, "lab"), LAB, LAB_TYPE)


def read_charting(reader: EventReader, names: ibis.Table) -> ibis.Table | None:
    known = names.filter(names.source == "nursecharting").name.to_pyarrow().to_pylist()

    def left_out(rows):
        name, text = rows.nursingchartcelltypevalname, rows.nursingchartvalue
        return {NO_CONCEPT: ~name.lower().isin(known).fill_null(False), NO_VALUE: parse_measured_value(text)["value"].isnull()}

    offsets, name = ["nursingchartoffset", "nursingchartentryoffset"], "nursingchartcelltypevalname"
    rows = reader.read("nurseCharting", offsets, left_out, (NO_CONCEPT, NO_VALUE), names_column=name)
    if rows is None:
        return None
    value = parse_measured_value(rows.nursingchartvalue)
    found = long_rows(rows, parse_id(rows.nursingchartid), rows[name], ibis.null("string"), value, rows.nursingchartvalue)
    return measurement_rows(with_concepts(found, names, "nurseCharting"), CHARTED, EXAMINATION)


def read_wide(
    reader: EventReader, names: ibis.Table, table: str, number: int, no_value: float | None = None, type_id: int = EHR
) -> ibis.Table | None:
    """A table with a column a variable; `no_value` stands there for none. APACHE variables move to the end of their first 24 hours."""
    known = sorted(set(names.filter(names.source == table.lower()).name.to_pyarrow().to_pylist()))
    id_column, *_, last = files.TABLES[table]

    def left_out(rows):
        values = [number_of(rows[name], no_value).notnull() for name in known if name in rows.columns]
        return {NO_VALUE: ~ibis.or_(*values) if values else ibis.literal(True)}

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
        rows = rows.mutate(time=rows.time + ibis.interval(seconds=APACHE_HOURS * 3600 - 1))
    found = thin_out(reader, rows, columns, table) if table == "vitalPeriodic" else stack(rows, columns)
    return measurement_rows(with_concepts(found, names, table), number, type_id)


def number_of(text: ibis.Value, no_value: float | None) -> ibis.Value:
    number = parse_number(text)
    return number if no_value is None else number.nullif(no_value)


def read_apache(reader: EventReader, names: ibis.Table) -> ibis.Table | None:
    return read_wide(reader, names, "apacheApsVar", APACHE, no_value=-1.0, type_id=ALGORITHM)


def read_admission_values(reader: EventReader, names: ibis.Table) -> ibis.Table | None:
    known = names.filter(names.source == "patient").name.to_pyarrow().to_pylist()
    columns = [name for name in ("admissionheight", "admissionweight") if name in known]
    if not columns:
        return None
    rows = reader.units.filter(reader.units.reason.isnull())
    numbers = {name: number_of(rows[name], 0.0) for name in columns}  # nobody weighs 0
    rows = rows.select("person_id", "visit_id", "unit_id", time="unit_start", row_id="unit_id", **numbers)
    return measurement_rows(with_concepts(stack(rows, columns), names, "patient"), ADMISSION, EXAMINATION)


def stack(rows: ibis.Table, columns: list[str], of_hours: bool = False) -> ibis.Table:
    """The values of `columns` below one another, as long_rows. of_hours: they are as first_of_hours gives them."""
    none = ibis.null("string")
    parts = []
    for place, name in enumerate(columns):
        told = rows.filter(rows[name].notnull())
        if of_hours:
            told = told.select("unit_id", "person_id", **{field: told[name][field] for field in ("time", "row_id", "value", "visit_id")})
        value = {"value": told.value if of_hours else told[name], "operator": none}
        parts.append(long_rows(told, told.row_id, ibis.literal(name), none, value, none, place))
    return reduce(lambda one, other: one.union(other), parts)


def thin_out(reader: EventReader, rows: ibis.Table, columns: list[str], table: str) -> ibis.Table:
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
