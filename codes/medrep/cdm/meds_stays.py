"""Stays of a MEDS dataset that has no visits: from the codes of admissions and discharges that the hospital's settings name.

    by the stay's id    HOSPITAL_ADMISSION//EW EMER.//...  (stay 7)  ------------------  HOSPITAL_DISCHARGE//HOME  (stay 7)
    by time             admitted ------------- discharged       admitted ------ admitted ------------- discharged
                        | a stay ------------- |                | end unknown   | a stay ------------- |

Where rows tell no id, a stay ends with the person's first discharge after its admission, if no other admission comes before that.
"""

import ibis

from medrep.cdm.meds_codes import ADMISSION, DISCHARGE
from medrep.cdm.sources.columns import line_and_raw, unreadable_reason

STAYS = ibis.schema({"stay_id": "int64", "subject_id": "int64", "start": "timestamp", "end": "timestamp", "admission_code": "string"})
"""start is null where there is a discharge and no admission, end where there is no discharge. admission_code is the first in the alphabet of the
stay's admissions (by time: of those at the start)."""
INPATIENT_VISIT = 9201
FIRST_NUMBER = 2**40
"""Of stays without an id: no hospital counts so far."""


def find_stays(rows: ibis.Table) -> ibis.Table:
    """STAYS of `rows` (subject_id, time, code, stay_id, role). One without an id is numbered from FIRST_NUMBER on, in the order of persons and time."""
    rows = rows.filter(rows.role.isin([ADMISSION, DISCHARGE]) & rows.subject_id.notnull() & rows.time.notnull())
    with_id, without = pair_by_id(rows.filter(rows.stay_id.notnull())), pair_by_time(rows.filter(rows.stay_id.isnull()))
    stays = ibis.union(with_id, without)
    moment = ibis.coalesce(stays.start, stays["end"])
    number = ibis.row_number().over(group_by=stays.stay_id.isnull(), order_by=[stays.subject_id, moment]) + FIRST_NUMBER
    stays = stays.mutate(stay_id=ibis.coalesce(stays.stay_id, number))
    return stays.select(*STAYS.names).cast(STAYS)


def pair_by_id(rows: ibis.Table) -> ibis.Table:
    """STAYS by their ids: from the first admission to the last discharge."""
    admitted, discharged = rows.role == ADMISSION, rows.role == DISCHARGE
    stays = rows.group_by("subject_id", "stay_id").agg(
        start=rows.time.min(where=admitted), end=rows.time.max(where=discharged), admission_code=rows.code.min(where=admitted)
    )
    return stays.select(*STAYS.names)


def pair_by_time(rows: ibis.Table) -> ibis.Table:
    """STAYS by time, without ids."""
    admissions = rows.filter(rows.role == ADMISSION)
    admissions = admissions.group_by("subject_id", start="time").agg(admission_code=admissions.code.min())
    following = admissions.start.lead().over(group_by=admissions.subject_id, order_by=admissions.start)
    admissions = admissions.mutate(following=following)
    discharges = rows.filter(rows.role == DISCHARGE).select("subject_id", moment="time").distinct()
    inside = [
        admissions.subject_id == discharges.subject_id,
        discharges.moment > admissions.start,
        admissions.following.isnull() | (discharges.moment <= admissions.following),
    ]
    ends = admissions.join(discharges, inside).group_by("subject_id", "start").agg(end=lambda t: t.moment.min())
    paired = admissions.left_join(ends, ["subject_id", "start"])
    stays = paired.select("subject_id", "start", "end", "admission_code")
    lone = discharges.anti_join(ends, [discharges.subject_id == ends.subject_id, discharges.moment == ends["end"]])
    lone = lone.select("subject_id", start=ibis.null("timestamp"), end="moment", admission_code=ibis.null("string"))
    return ibis.union(stays, lone).mutate(stay_id=ibis.null("int64")).select(*STAYS.names)


def stays_as_visits(rows: ibis.Table) -> tuple[ibis.Table, ibis.Table]:
    """The stays of `rows` as columns of a visit, with line and raw; and so those of `rows` that can't be read."""
    stays = find_stays(rows)
    text = ibis.literal(",").join([stays[name].cast("string").fill_null("") for name in ("subject_id", "end", "stay_id")])
    stays = stays.select(
        "subject_id",
        "end",
        time="start",
        concept_id=ibis.literal(INPATIENT_VISIT, "int64"),
        visit_id="stay_id",
        source_value="admission_code",
        unreadable=ibis.ifelse(stays.start.isnull(), "discharge without an admission", ibis.null("string")),
        line=ibis.literal(0, "int64"),
        raw=text,
    )
    reason = unreadable_reason(subject_id=rows.subject_id, time=rows.time)
    broken = rows.mutate(unreadable=reason).filter(reason.notnull())
    lines = {"line": ibis.literal(0, "int64"), "raw": broken.code} | line_and_raw(broken)
    broken = broken.select(
        "subject_id",
        "time",
        end=ibis.null("timestamp"),
        concept_id=ibis.literal(INPATIENT_VISIT, "int64"),
        visit_id=broken.stay_id,
        source_value=ibis.null("string"),
        unreadable=broken.unreadable,
        **lines,
    )
    return stays, broken
