"""Label the admissions with what happened next: MT (death in hospital), LLOS (a long stay), RA (readmission).

    cd codes
    python preprocessing/labels.py --hospital mimic --outcome MT LLOS RA

Reads   usedata/{hospital}/persons, visits, records
Writes  usedata/{hospital}/labels/{outcome}

All eligible admissions of persons with records count. A death known by its day only stands at 23:59:59 and belongs to a
stay that ends on that day.

MT    admitted ----- 24 h ----- prediction_time =============== discharged
      what the model may see  | a death here is true          | still in and alive at prediction_time, or left out

LLOS  admitted ----- 24 h ----- prediction_time ----- 7 days ===== discharged
      what the model may see  |                     | a discharge here is true; who died in the stay before: left out

RA    admitted ----- discharged = prediction_time ----- 24 h ========= 30 days
      what the model may see  | (sooner: the same stay) | an admission here is true
      died in hospital: left out; no admission, but dead or out of sight within the 30 days: left out
"""
import argparse

import ibis

from medrep import config, contract, engine, rules
from medrep.config import Cohort
from medrep.contract import LABELS, PERSONS, RECORDS, VISITS, Made
from medrep.errors import UserError
from medrep.progress import say, stage

RULES = {
    "MT": ["not still in at the prediction time", "dead before the prediction time"],
    "LLOS": ["not still in at the prediction time", "dead before the prediction time", "died in the stay before it was long"],
    "RA": ["died in hospital", "died within the time to readmission", "not followed for the time to readmission"],
}


def hours(n: float) -> ibis.Value:
    return ibis.interval(seconds=round(n * 3600))


def died_in(stays: ibis.Table) -> ibis.Value:
    """Whether death came before the end of a stay, or on the day it ends where only the day of death is known."""
    death = stays.death_time
    day_only = death == death.truncate("D") + ibis.interval(seconds=24 * 3600 - 1)
    return ((death <= stays.end) | (day_only & (death.date() <= stays.end.date()))).fill_null(False)


def still_in(stays: ibis.Table) -> dict[str, ibis.Value]:
    """The rules that MT and LLOS share."""
    return {"not still in at the prediction time": stays.end <= stays.prediction_time,
            "dead before the prediction time": stays.death_time < stays.prediction_time}


def label_mt(admissions: ibis.Table, cohort: Cohort) -> ibis.Table:
    stays = admissions.mutate(prediction_time=admissions.start + hours(cohort.prediction_hours))
    return stays.mutate(boolean_value=died_in(stays), reason=rules.first_reason(still_in(stays)))


def label_llos(admissions: ibis.Table, cohort: Cohort) -> ibis.Table:
    stays = admissions.mutate(prediction_time=admissions.start + hours(cohort.prediction_hours),
                              long=admissions.start + hours(24 * cohort.long_stay_days))
    # a death on the last day stands at that day's end, after a discharge before it: the stay ended at the sooner
    died_before = died_in(stays) & (ibis.least(stays.death_time, stays.end) < stays.long)
    return stays.mutate(boolean_value=stays.end >= stays.long,
                        reason=rules.first_reason({**still_in(stays), "died in the stay before it was long": died_before}))


def merge_stays(admissions: ibis.Table, transfer_hours: float) -> ibis.Table:
    """Admissions with less than `transfer_hours` between them as one stay: person_id, death_time, start, end."""
    order = [admissions.start, admissions.end, admissions.visit_id]
    before = admissions.end.max().over(ibis.window(group_by="person_id", order_by=order, preceding=(None, 1)))
    admissions = admissions.mutate(before=before)
    admissions = admissions.mutate(opens=(admissions.before.isnull() | (admissions.start >= admissions.before + hours(transfer_hours))).cast("int64"))
    order = [admissions.start, admissions.end, admissions.visit_id]
    stay = admissions.opens.sum().over(ibis.window(group_by="person_id", order_by=order, preceding=(None, 0)))
    admissions = admissions.mutate(stay=stay)
    return admissions.group_by("person_id", "stay").agg(
        death_time=admissions.death_time.min(), start=admissions.start.min(), end=admissions.end.max())


def label_ra(admissions: ibis.Table, cohort: Cohort, last_time=None) -> ibis.Table:
    """`last_time` is the last date of the hospital, None where no one date ends everybody's follow-up."""
    stays = merge_stays(admissions, cohort.transfer_hours)
    following = stays.start.lead().over(group_by="person_id", order_by=[stays.start, stays.stay])
    stays = stays.mutate(prediction_time=stays.end, following=following, until=stays.end + hours(24 * cohort.readmission_days))
    back = (stays.following <= stays.until).fill_null(False)
    unseen = ibis.literal(False) if last_time is None else stays.until > ibis.literal(last_time, "timestamp")
    return stays.mutate(boolean_value=back, reason=rules.first_reason({
        "died in hospital": died_in(stays),
        "died within the time to readmission": ~back & (stays.death_time <= stays.until).fill_null(False),
        "not followed for the time to readmission": ~back & unseen,
    }))


def last_time_of(records: ibis.Table, visits: ibis.Table):
    """The hospital's last record or end of a visit."""
    times = [records.time.max().execute(), visits.end.max().execute()]
    return max(time.to_pydatetime() for time in times if time is not None and time == time)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospital", required=True, help="a folder under usedata/, such as mimic")
    parser.add_argument("--outcome", nargs="+", default=list(RULES), metavar="OUTCOME", help=f"among {', '.join(RULES)} (default: all)")
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    if unknown := [outcome for outcome in args.outcome if outcome not in RULES]:
        raise UserError(f"--outcome {' '.join(unknown)} is unknown; known are {', '.join(RULES)}")
    name, cohort = args.hospital, config.load("cohort", args.overrides)
    hospital = config.load("hospital", args.overrides, hospital=name)
    if hospital.follow_up_ends not in ("last_record", "unknown"):
        raise UserError(f"hospital.follow_up_ends is {hospital.follow_up_ends!r}: give last_record or unknown")
    inputs = [table.require(hospital=name) for table in (PERSONS, VISITS, RECORDS)]
    numbers = ("prediction_hours", "long_stay_days", "readmission_days", "transfer_hours")
    settings = {"follow_up_ends": hospital.follow_up_ends, **{key: getattr(cohort, key) for key in numbers}}

    con = engine.connect(args.engine, args.memory)
    for outcome in args.outcome:
        made = Made(LABELS.at(hospital=name, outcome=outcome), inputs=inputs, settings=settings)
        if made.is_current():
            continue
        with stage("labels") as figures:
            persons, visits, records = (table.read(con, hospital=name) for table in (PERSONS, VISITS, RECORDS))
            of_kept = visits.semi_join(records, "person_id")
            admissions = of_kept.filter(of_kept.is_admission).join(persons.select("person_id", "death_time"), "person_id")
            if outcome == "RA":
                last_time = last_time_of(records, visits) if hospital.follow_up_ends == "last_record" else None
                stays = label_ra(admissions, cohort, last_time)
            else:
                stays = (label_mt if outcome == "MT" else label_llos)(admissions, cohort)
            stays = engine.hold(con, stays)
            say(f"{name} {outcome}: {visits.count().execute():,} visits; {of_kept.count().execute():,} of persons with records; "
                f"{admissions.count().execute():,} admissions" + (f"; {stays.count().execute():,} stays" if outcome == "RA" else ""))
            counts = rules.report(f"{name} {outcome} {'stays' if outcome == 'RA' else 'admissions'}", stays, RULES[outcome])
            labels = stays.filter(stays.reason.isnull()).select("prediction_time", "boolean_value", subject_id="person_id")
            figures.update(outcome=outcome, labelled=counts["kept"], positive=int(labels.boolean_value.sum().execute() or 0))
            LABELS.write(con, labels.order_by("subject_id", "prediction_time", "boolean_value"), hospital=name, outcome=outcome)
            share = f" ({figures['positive'] / figures['labelled']:.2%})" if figures["labelled"] else ""
            say(f"{name} {outcome}: {figures['labelled']:,} labelled, {figures['positive']:,} positive{share}")
            if not figures["positive"]:
                say(f"warning: {contract.show(LABELS.at(hospital=name, outcome=outcome))} has no positives: no AUROC can be computed from it")
        made.record()


if __name__ == "__main__":
    main()
