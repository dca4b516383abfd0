"""The latent clinical course of synthetic persons, and the facts it leaves in a record.

A person has chronic burdens (one a body system), a frailty and a use of care; an admission has a system that it is for
and a severity. These drive what is charted, prescribed, measured and done, each with noise, and the outcomes:

    admitted ------ 24 h ------ p = P(death in the rest of the stay | latent state) ------ discharged or dead
    facts of severity, noisy    known to the generator, written as the truth              telling facts at the end

Everything is drawn for a chunk of persons at once, from a generator of its own.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from demo.terminology import ANALYTES, DOMAINS, SYSTEMS

NAMES = list(SYSTEMS)
HOUR = 3600
DAY = 24 * HOUR
DOMAIN_SHARES = [0.14, 0.24, 0.52, 0.10]  # of events, in the order of DOMAINS


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@dataclass
class Chunk:
    """Persons who are drawn together, their stays, and what is recorded of them. A place is the number of a row, from 0."""

    persons: pd.DataFrame
    """age (at the first visit), female, frailty, care (how much of it the person uses), burden_{system}"""
    stays: pd.DataFrame
    """Admissions and outpatient days: person (place in persons), start, end (seconds), admission, system, severity, death;
    kept is false for those that would come after the person's death."""
    events: pd.DataFrame
    """stay (place in stays), domain (place in DOMAINS), system, severity, fact (place in its list), time (seconds), value, billing"""
    truth: pd.DataFrame
    """stay (place in stays), outcome, and the probability that it was drawn from"""


def draw_chunk(size: int, random: np.random.Generator) -> Chunk:
    persons = draw_persons(size, random)
    stays = draw_stays(persons, random)
    truth = draw_outcomes(persons, stays, random)
    return Chunk(persons, stays, draw_events(persons, stays, random), truth)


def draw_persons(size, random) -> pd.DataFrame:
    age = np.where(random.random(size) < 0.03, random.integers(1, 17, size), random.normal(62, 17, size).clip(18, 99).astype(int))
    burden = random.gamma(0.35, 1.0, (size, len(NAMES))) * (0.5 + (age / 62)[:, None] ** 2 * 0.5)
    return pd.DataFrame(
        {
            "age": age,
            "female": random.random(size) < 0.5,
            "frailty": random.normal((age - 62) / 40, 1, size),
            "care": np.exp(random.normal(0, 0.9, size)),
            **{f"burden_{name}": burden[:, i] for i, name in enumerate(NAMES)},
        }
    )


def draw_stays(persons: pd.DataFrame, random) -> pd.DataFrame:
    """A person's visits in time order: outpatient days by use of care, admissions by frailty and burden."""
    burden = persons.filter(like="burden_").to_numpy()
    admissions = random.poisson(1.1 * np.exp(0.25 * persons.frailty + 0.06 * burden.sum(1))).clip(0, 8)
    days = random.poisson(2.5 * persons.care).clip(0, 40)
    person = np.repeat(np.arange(len(persons)), admissions + days)
    number = np.concatenate([np.arange(n) for n in admissions + days]) if len(person) else np.array([], int)  # of a visit within its person
    # admissions are spread evenly among the visits
    own_visits, own_admissions = np.maximum((admissions + days)[person], 1), admissions[person]
    admission = np.floor((number + 1) * own_admissions / own_visits) > np.floor(number * own_admissions / own_visits)
    weights = burden[person] + 0.25
    system = (weights.cumsum(1) > (random.random(len(person)) * weights.sum(1))[:, None]).argmax(1)
    severity = random.normal(0, 1, len(person)) + 0.35 * persons.frailty.to_numpy()[person] + 0.25 * burden[person, system] - 0.2
    length = np.where(admission, np.exp(random.normal(1.5 + 0.3 * severity.clip(-2, 3), 0.65)) * DAY, HOUR).clip(0.2 * HOUR, 60 * DAY)
    gap = np.where(random.random(len(person)) < 0.12, random.uniform(2, 28, len(person)), random.exponential(70, len(person)) + 2) * DAY
    origin = (2130 - 1970 + random.integers(0, 40, len(persons))) * 365.25 * DAY
    since_origin = pd.Series(gap + length).groupby(person).cumsum().to_numpy() - length
    start = (origin[person] + since_origin + random.uniform(0, DAY, len(person))).astype(np.int64)
    return pd.DataFrame(
        {"person": person, "start": start, "end": start + length.astype(np.int64), "admission": admission, "system": system, "severity": severity}
    )


def draw_outcomes(persons, stays, random) -> pd.DataFrame:
    """Death in the rest of the stay, from its true probability at 24 h; the person has no visit after it."""
    burden = persons.filter(like="burden_").to_numpy()
    person = stays.person.to_numpy()
    lethality = np.array([0.5, 0.6, 0.1, 0.5, 0.6, 0.0, 0.2, -0.5, 0.3, -0.8, -0.5, 0.7])[stays.system]
    probability = sigmoid(
        -5.4
        + 1.55 * stays.severity
        + 0.45 * persons.frailty.to_numpy()[person]
        + 0.12 * burden[person].sum(1)
        + 0.025 * (persons.age.to_numpy()[person] - 62)
        + lethality
    )
    in_at_24_h = stays.admission & (stays.end - stays.start > DAY)
    early = stays.admission & (random.random(len(stays)) < 0.08 * probability)
    dies = (in_at_24_h & (random.random(len(stays)) < probability)) | early
    rest = (stays.end - stays.start - DAY).clip(lower=HOUR)
    late_end = stays.start + DAY + (rest * random.uniform(0.02, 1, len(stays))).astype(np.int64)
    early_end = stays.start + (random.uniform(0.1, 0.95, len(stays)) * np.minimum(DAY, stays.end - stays.start)).astype(np.int64)
    stays["death"] = dies & ~dies.groupby(stays.person).cumsum().gt(1)
    stays["end"] = np.where(stays.death, np.where(early, early_end, late_end), stays.end).astype(np.int64)
    dead_before = (stays.death.groupby(stays.person).cumsum().gt(0) & ~stays.death).to_numpy()
    truth = pd.DataFrame({"stay": np.arange(len(stays)), "outcome": "MT", "probability": probability})
    truth = truth[(in_at_24_h & ~early).to_numpy() & ~dead_before]
    stays["kept"] = ~dead_before
    return truth


def draw_events(persons, stays, random) -> pd.DataFrame:
    """What is recorded: more with length and use of care; of the stay's system or a chronic one; severe facts with severity."""
    burden = persons.filter(like="burden_").to_numpy()
    days = (stays.end - stays.start).to_numpy() / DAY
    care = persons.care.to_numpy()[stays.person.to_numpy()]
    # the first day is charted apart and densest: how much it holds must not tell how long the stay will be, or how it ends
    first = random.poisson(np.where(stays.admission, 65 * care**0.4 * days.clip(0, 1), 9 * care)).clip(1)
    later = random.poisson(np.where(stays.admission, 24 * care**0.4 * (days - 1).clip(0), 0)).clip(0, 3000)
    stay = np.repeat(np.arange(len(stays)), (first + later) * stays.kept.to_numpy())
    n, person = len(stay), stays.person.to_numpy()[stay]
    admission, severity = stays.admission.to_numpy()[stay], stays.severity.to_numpy()[stay]
    weights = burden[person] + 0.1
    chronic = (weights.cumsum(1) > (random.random(n) * weights.sum(1))[:, None]).argmax(1)
    system = np.where(random.random(n) < np.where(admission, 0.55, 0.2), stays.system.to_numpy()[stay], chronic)
    unrelated = random.random(n) < 0.12
    system = np.where(unrelated, random.integers(0, len(NAMES), n), system)
    domain = np.searchsorted(np.cumsum(DOMAIN_SHARES), random.random(n)).clip(max=3)
    length = (stays.end - stays.start).to_numpy()[stay]
    number = np.arange(n) - np.flatnonzero(np.diff(stay, prepend=-1)).repeat(np.unique(stay, return_counts=True)[1])  # within the stay
    since_start = np.where(number < first[stay], random.random(n) * np.minimum(length, DAY), DAY + random.random(n) * (length - DAY))
    time = (stays.start.to_numpy()[stay] + since_start).astype(np.int64)
    near_death = stays.death.to_numpy()[stay] & (time > stays.end.to_numpy()[stay] - DAY // 2) & (since_start > DAY)
    severe_logit = np.where(admission, 0.9 * severity - 1.6, -2.5) + 0.2 * burden[person, system] + 2.5 * near_death
    severe = (random.random(n) < sigmoid(severe_logit)) & (domain != 2)
    billing = admission & (domain == 0) & (random.random(n) < 0.4)
    # the discharge diagnoses tell how the stay ended
    severe = np.where(billing & stays.death.to_numpy()[stay], random.random(n) < 0.8, severe)
    fact_count = np.array([16, 4, 4, 4])[domain]  # of one system and severity, in terminology.build
    # a person's own form of an illness comes up again and again
    habit = (person * 7919 + system * 104729 + domain * 31) % fact_count
    fact = np.where(random.random(n) < 0.5, habit, random.integers(0, 1 << 30, n) % fact_count)
    shift = np.where(admission, 0.75 * severity, -0.4) * (system == stays.system.to_numpy()[stay]) + 0.25 * burden[person, system] + 0.5 * near_death
    value = shift + random.normal(0, 1, n)
    events = pd.DataFrame(
        {
            "stay": stay,
            "domain": domain,
            "system": system,
            "severity": severe.astype(int),
            "fact": fact,
            "time": time,
            "value": value,
            "billing": billing,
        }
    )
    again = events[(domain == 2) & (random.random(n) < 0.02)]  # measured twice within the hour
    return pd.concat([events, again.assign(value=again.value + 0.1)], ignore_index=True)


ANALYTE_SCALES = {
    (s, f): (10.0 * (1 + (i * 37 % 23)), 1.0 + (i * 53 % 17))
    for i, (s, f) in enumerate((s, f) for s, name in enumerate(NAMES) for f in range(len(ANALYTES[name])))
}
"""(system, analyte) -> the level and spread that turn a shift into a value in units."""
assert len(DOMAINS) == len(DOMAIN_SHARES)
