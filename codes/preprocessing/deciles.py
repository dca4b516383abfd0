"""Find the deciles of every measurement.

    cd codes
    python preprocessing/deciles.py --hospital mimic
    python preprocessing/deciles.py --hospital ehrshot        # after the home hospital's

Reads   usedata/{hospital}/persons, records; for another hospital than the home also usedata/{home}/deciles
Writes  usedata/{hospital}/deciles

The model never sees a raw value. It sees the tenth that the value falls in, of the values of the same concept in the
same unit among the train persons of the home hospital: HbA1c 7.9 % becomes the token 3004410_7, there and elsewhere, so
that a token means the same everywhere. Where the home has no such concept and unit, a hospital's own train persons
give the edges. Tenths are numbered 0 to 9; trajectories.py says which one a value falls in.
"""

import ibis

from medrep import config
from medrep.cdm import engine
from medrep.cdm.sources.columns import NO_UNIT
from medrep.progress import print_line, timed_stage
from medrep.stamps import Stamp
from medrep.tables import DECILES, PERSONS, RECORDS


def find_deciles(records: ibis.Table, min_values: int, include_unitless: bool = True) -> ibis.Table:
    """The eleven decile edges of each (concept, unit) of measurements that has at least `min_values` values.

    Values without a unit have edges only if `include_unitless`. edge_i stands i/10 of the way from the least value to the
    greatest in order, between two values in proportion.
    """
    measured = records.filter((records.domain == "measurement") & records.value.notnull() & records.unit.notnull())
    if not include_unitless:
        measured = measured.filter(measured.unit != NO_UNIT)
    # values repeat: counting each distinct one keeps this small, whatever the number of rows
    distinct = measured.group_by("concept_id", "unit", "value").agg(times=lambda t: t.count())
    unit = ["concept_id", "unit"]
    n = distinct.times.sum().over(group_by=unit)
    reached = distinct.times.sum().over(ibis.window(group_by=unit, order_by=distinct.value, preceding=(None, 0)))
    ranked = distinct.mutate(n=n, reached=reached).filter(ibis._.n >= min_values)

    edges = {}
    for i in range(11):
        tenths = (ranked.n - 1) * i
        place, rest = tenths // 10, tenths % 10
        lower = ranked.value.min(where=ranked.reached > place)  # the value at that place, counted from 0
        upper = ranked.value.min(where=ranked.reached > place + ibis.ifelse(rest > 0, 1, 0))
        # multiplied first: 0 + 3 * 7 / 10 is 2.1, and 2.1 lies on that edge; 0 + 3 * (7 / 10) is a little less
        edges[f"edge_{i}"] = lower + (upper - lower) * rest.max() / 10
    return ranked.group_by(unit).agg(n=ranked.n.max(), **edges)


def combine_deciles(home: ibis.Table, own: ibis.Table, records: ibis.Table) -> ibis.Table:
    """The edges that a hospital with `records` uses: `home`'s of the measurements it has, `own` for the others."""
    unit = ["concept_id", "unit"]
    present = records.filter(records.value.notnull()).select(unit).distinct()
    return home.semi_join(present, unit).union(own.anti_join(home, unit))


def main(argv=None):
    parser = engine.stage_parser(__doc__)
    parser.add_argument("--home", help="the hospital whose edges come first (default: cohort.home)")
    args = parser.parse_args(argv)

    cohort = config.load("cohort", args.overrides)
    name, home = args.hospital, args.home or cohort.home
    inputs = [PERSONS.require(hospital=name), RECORDS.require(hospital=name)]
    of_home = name != home and cohort.decile_edges == "home"
    if of_home:
        inputs.append(DECILES.require(hospital=home))
    choices = ("min_values", "decile_persons", "decile_edges", "without_deciles")
    stamp = Stamp(DECILES.at(hospital=name), inputs=inputs, settings={"home": home, **{key: getattr(cohort, key) for key in choices}})
    if stamp.is_current():
        return
    with timed_stage("deciles") as figures:
        con = engine.connect(args.engine, args.memory, args.threads)
        records, persons = RECORDS.read(con, hospital=name), PERSONS.read(con, hospital=name)
        if cohort.decile_persons == "train":
            persons = persons.filter(persons.split == "train")
        deciles = find_deciles(records.semi_join(persons, "person_id"), cohort.min_values, cohort.without_deciles == "plain")
        deciles = engine.materialize(con, deciles)
        if of_home:
            own = deciles
            deciles = engine.materialize(con, combine_deciles(DECILES.read(con, hospital=home), own, records))
            figures["own"] = int(own.anti_join(DECILES.read(con, hospital=home), ["concept_id", "unit"]).count().execute())
        figures["measurements"] = DECILES.write(con, deciles, hospital=name)
        print_line(
            f"{figures['measurements']:,} measurements in one unit have deciles, {figures.get('own', 0):,} of them {name}'s own "
            f"and the others {home}'s"
            if of_home
            else f"{figures['measurements']:,} measurements in one unit have deciles"
        )
        stamp.record()


if __name__ == "__main__":
    main()
