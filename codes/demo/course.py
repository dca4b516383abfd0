"""The latent clinical course of synthetic persons, and the facts it leaves in a record.

A person has chronic burdens (one a body system), a frailty and a use of care; an admission has a system that it is for
and a severity. These drive what is charted, prescribed, measured and done, each with noise, and the outcomes, each drawn
from a probability that is known here and written as the truth:

    admitted ------ 24 h ------------------ 7 days ------------ discharged ------ 30 days
    facts of severity, noisy    how ill they still are, where they go: the last day's facts
                    | MT: P(death in the rest of the stay)      | RA: P(an admission within 30 days)
                    | LLOS: P(still in after 7 days, unless dead before)

Everything is drawn for a chunk of persons at once, from a generator of its own.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr

from demo.terminology import ANALYTES, DOMAINS, SYSTEMS

NAMES = list(SYSTEMS)
HOUR = 3600
DAY = 24 * HOUR
DOMAIN_SHARES = [0.14, 0.24, 0.52, 0.10]  # of events, in the order of DOMAINS
LONG_STAY_DAYS, READMISSION_DAYS = 7, 30  # as CohortConfig has them
LETHALITY = np.array([0.5, 0.6, 0.1, 0.5, 0.6, 0.0, 0.2, -0.5, 0.3, -0.8, -0.5, 0.7])  # of an admission for each system
# How much longer one stays for each system than for another of the same severity, as a logarithm: rehabilitation after strokes and
# fractures, wounds and infections that are treated for weeks; sugar is soon set right.
SLOWNESS = np.array([0.0, 0.1, 0.0, 0.1, 0.3, -0.1, 0.2, -0.2, 0.0, 0.2, 0.2, 0.2])
LENGTH_NOISE = 0.65  # of the logarithm of a stay's length: most of it is not foreseen, as in real hospitals
DEATH_SHARES = (0.02, 1)  # who dies does so after a share between these of the stay beyond 24 h
WEAKNESS = (NAMES.index("systemic"), 15)  # the system and fact of "Whole body weakness", the last of its conditions


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@dataclass
class Chunk:
    """Persons who are drawn together, their stays, and what is recorded of them. A place is the number of a row, from 0."""

    persons: pd.DataFrame
    """age (at the first visit), female, frailty, care (how much of it the person uses), burden_{system}"""
    stays: pd.DataFrame
    """Admissions and outpatient days in time order: person (place in persons), start, end (seconds), admission, system, severity; and of
    admissions the columns of draw_admissions"""
    events: pd.DataFrame
    """stay (place in stays), domain (place in DOMAINS), system, severity, fact (place in its list), time (seconds), value, billing"""
    truth: pd.DataFrame
    """A row a prediction point: stay (place in stays), outcome, time (of the prediction, seconds), the probability that the label was drawn
    from, and the label"""


def draw_chunk(size: int, random: np.random.Generator) -> Chunk:
    persons = draw_persons(size, random)
    planned = draw_planned_admissions(persons, random)
    stays = place_in_time(persons, planned, draw_admissions(persons, planned, random), random)
    return Chunk(persons, stays, draw_events(persons, stays, random), list_truth(stays))


def burdens(persons: pd.DataFrame) -> np.ndarray:
    return persons.filter(like="burden_").to_numpy()  # (persons, systems)


def draw_persons(size, random) -> pd.DataFrame:
    # No one is older than 89 at first, so that no one outgrows CohortConfig.max_age, beyond which an admission would be no readmission.
    age = np.where(random.random(size) < 0.03, random.integers(1, 17, size), random.normal(62, 17, size).clip(18, 89).astype(int))
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


def draw_planned_admissions(persons, random) -> np.ndarray:
    """How many admissions each person has, if alive, beside readmissions."""
    return random.poisson(0.9 * np.exp(0.25 * persons.frailty + 0.06 * burdens(persons).sum(1))).clip(0, 8)


def draw_systems(burden: np.ndarray, random) -> np.ndarray:
    """What each visit of persons with these burdens (visits, systems) is for."""
    weights = burden + 0.25
    return (weights.cumsum(1) > (random.random(len(weights)) * weights.sum(1))[:, None]).argmax(1)


# ---- admissions, and what comes of them ------------------------------------------------------------------------------


def draw_admissions(persons: pd.DataFrame, planned: np.ndarray, random) -> pd.DataFrame:
    """The columns of draw_admission, person, episode (which of the planned ones it is, or follows) and earlier (how many there were before).

    First the first admission of all persons, then the second of those who have one: whether there is one and how it goes depends on those
    before. A readmission comes before the next planned one; after a death there is none.
    """
    burden = burdens(persons)
    who = np.flatnonzero(planned)
    episode, earlier, drawn = np.zeros(len(who), dtype=int), 0, []
    while len(who) or not drawn:
        admissions = draw_admission(persons.age.to_numpy()[who], persons.frailty.to_numpy()[who], burden[who], earlier, random)
        drawn.append(admissions.assign(person=who, episode=episode, earlier=earlier))
        back = admissions.back.to_numpy()
        episode = episode + ~back
        goes_on = ~admissions.death.to_numpy() & (back | (episode < planned[who]))
        who, episode, earlier = who[goes_on], episode[goes_on], earlier + 1
    return pd.concat(drawn, ignore_index=True)


def draw_admission(age: np.ndarray, frailty: np.ndarray, burden: np.ndarray, earlier: int, random) -> pd.DataFrame:
    """One admission of each of some persons: system, severity, clock (seconds from midnight to the admission), length (seconds), death,
    severity_at_discharge, facility (whether that is where they go from here), back (within READMISSION_DAYS), and the true
    probabilities: p_death and p_long, at 24 h, p_back, at discharge."""
    n = len(age)
    system = draw_systems(burden, random)
    severity = random.normal(0, 1, n) + 0.35 * frailty + 0.25 * burden[np.arange(n), system] - 0.2
    p_death = sigmoid(-5.4 + 1.55 * severity + 0.45 * frailty + 0.12 * burden.sum(1) + 0.025 * (age - 62) + LETHALITY[system])

    # The iller, frailer (a tenth a standard deviation) and more burdened, the longer; nothing else that lengthens a stay is told by its first day.
    log_days = 1.4 + 0.3 * severity.clip(-2, 3) + 0.1 * frailty + 0.03 * (burden.sum(1) - 4) + SLOWNESS[system]
    planned = (np.exp(random.normal(log_days, LENGTH_NOISE)).clip(max=60) * DAY).astype(np.int64)
    # No one leaves or dies before the first midnight: an admission is overnight, or it would be none, and no readmission.
    clock = random.integers(1, DAY, n)
    first_night = random.integers(DAY - clock + 1, DAY + 1)
    planned = np.where(planned <= DAY - clock, first_night, planned)
    early = random.random(n) < 0.08 * p_death
    death = early | ((planned > DAY) & (random.random(n) < p_death))
    late = DAY + ((planned - DAY).clip(HOUR) * random.uniform(*DEATH_SHARES, n)).astype(np.int64)
    length = np.where(death, np.where(early, first_night, late), planned)
    length += (clock + length) % DAY == 0  # an end at midnight would be read as one whose time is not known

    # At discharge: half of what made them ill is cured on average, more or less; the frail, the old and those with strokes and fractures go
    # to a nursing facility rather than home, in all about one in six.
    at_discharge = 0.5 * severity + random.normal(0, 0.7, n)
    slow_to_walk = np.isin(system, [NAMES.index("brain"), NAMES.index("bone")])
    facility = ~death & (random.random(n) < sigmoid(-2.2 + 0.6 * frailty + 0.03 * (age - 62) + 0.3 * severity + 0.7 * slow_to_walk))
    p_back = readmission_probability(age, frailty, burden, earlier, severity, at_discharge, length / DAY, facility)
    return pd.DataFrame(
        {
            "system": system,
            "severity": severity,
            "clock": clock,
            "length": length,
            "death": death,
            "severity_at_discharge": at_discharge,
            "facility": facility,
            "back": ~death & (random.random(n) < p_back),
            "p_death": p_death,
            "p_long": long_stay_probability(log_days, p_death),
            "p_back": p_back,
        }
    )


def long_stay_probability(log_days: np.ndarray, p_death: np.ndarray) -> np.ndarray:
    """P(in for LONG_STAY_DAYS or more | in at 24 h, and not dead before that day), as draw_admission draws it.

    log_days: the mean of the logarithm of the planned length. Who would die within the stay leaves it when a share of what is left of it
    has gone: so the planned length must be the greater, the smaller the share, and the mean is taken over shares.
    """

    def planned_beyond(days):
        return ndtr((log_days[:, None] - np.log(days)) / LENGTH_NOISE)

    low, high = DEATH_SHARES
    shares = low + (high - low) * (np.arange(50) + 0.5) / 50  # the middles of fiftieths: the sum is right to four decimals
    beyond_a_day = planned_beyond(np.array([1]))[:, 0]
    long_if_alive = planned_beyond(np.array([LONG_STAY_DAYS]))[:, 0] / beyond_a_day
    long_if_dying = planned_beyond(1 + (LONG_STAY_DAYS - 1) / shares).mean(1) / beyond_a_day
    is_long = (1 - p_death) * long_if_alive + p_death * long_if_dying
    dies_before = p_death * (1 - long_if_dying)
    return is_long / (1 - dies_before)


def readmission_probability(age, frailty, burden, earlier, severity, at_discharge, days, facility) -> np.ndarray:
    """P(an admission within READMISSION_DAYS | discharged alive, and what is known of person and stay).

    What matters is what the scores LACE (van Walraven et al. 2010) and HOSPITAL (Donze et al. 2013) are made of: length of stay, how acute it
    was, other illnesses, admissions before. About as much as studies found, chosen once and not so that a model does this or that well. No one
    dies between stays, so that nothing competes with it.
    """
    return sigmoid(
        -2.4  # with the rest, about one in six: hospitals report 12 to 20 of a hundred
        + 0.12 * (burden.sum(1) - 4)  # an odds ratio of 1.1 to 1.2 a point of comorbidity
        + 0.35 * frailty  # the frail have nearly twice the odds of others
        + 0.005 * (age - 62)  # age by itself tells little once illness is known
        + 0.2 * severity  # of the stay
        + 0.3 * at_discharge  # vital signs that are not yet stable on the last day: an odds ratio of 1.4 (Nguyen et al. 2017)
        + 0.3 * min(earlier, 4)  # the strongest there is in HOSPITAL and in LACE; beyond four they tell no more
        + 0.2 * np.log(days / 4.5)
        + 0.25 * facility
    )


# ---- when it happens ---------------------------------------------------------------------------------------------------


def place_in_time(persons: pd.DataFrame, planned: np.ndarray, admissions: pd.DataFrame, random) -> pd.DataFrame:
    """Chunk.stays: planned admissions and, by use of care, outpatient days, spread evenly among one another; each readmission right after the
    stay that it follows.

    Between visits lie whole nights, so many that the next admission begins more than a day after a discharge (sooner, it would be the same
    stay), and within READMISSION_DAYS of it if the person is to come back, and else not.
    """
    counts = planned + random.poisson(2.5 * persons.care).clip(0, 40)
    person = np.repeat(np.arange(len(persons)), counts)
    number = np.arange(len(person)) - np.repeat(counts.cumsum() - counts, counts)  # of a planned visit within its person
    is_admission = (number + 1) * planned[person] // counts[person] > number * planned[person] // counts[person]
    admission_numbers = number[is_admission]  # of all persons' planned admissions, one after the other
    of_person = admissions.person.to_numpy()
    days = pd.DataFrame({"person": person[~is_admission], "number": number[~is_admission], "length": HOUR, "severity": 0.0, "earlier": 0})
    days = days.assign(
        system=draw_systems(burdens(persons)[days.person], random),
        clock=random.integers(8 * HOUR, 17 * HOUR, len(days)),
        **dict.fromkeys(("admission", "death", "facility", "back"), False),
    )
    first_of = planned.cumsum() - planned
    admissions = admissions.assign(admission=True, number=admission_numbers[first_of[of_person] + admissions.episode.to_numpy()])
    stays = pd.concat([admissions, days], ignore_index=True).sort_values(["person", "number", "earlier"], kind="stable", ignore_index=True)
    # outpatient days that would come after the person's death
    stays = stays[~stays.death.groupby(stays.person).cumsum().gt(0) | stays.death].reset_index(drop=True)

    n, person = len(stays), stays.person.to_numpy()
    is_back = stays.back.shift(fill_value=False).to_numpy()  # the visit after a stay whose person is to come back
    soon = random.random(n) < 0.12  # of outpatient days: what is controlled within four weeks
    gap = np.where(soon, random.integers(2, 29, n), 2 + random.exponential(70, n))
    gap = np.where(stays.admission, READMISSION_DAYS + 1 + random.exponential(40, n), gap)
    # sooner rather than later: half of those who come back do so within ten days (an exponential of 15 days, cut off)
    within = READMISSION_DAYS - 2
    gap = np.where(is_back, 2 - 15 * np.log1p(-random.random(n) * (1 - np.exp(-within / 15))), gap).astype(np.int64)
    nights = (stays.clock + stays.length) // DAY
    first_day = ((2130 - 1970 + random.integers(0, 40, len(persons))) * 365.25).astype(np.int64)
    day = first_day[person] + (gap + nights).groupby(person).cumsum() - nights
    start = day * DAY + stays.clock
    return stays.assign(start=start, end=start + stays.length).drop(columns=["clock", "length", "number", "episode"])


def list_truth(stays: pd.DataFrame) -> pd.DataFrame:
    """Chunk.truth. Who dies before LONG_STAY_DAYS has no row of LLOS, and who dies in the stay none of RA: so have preprocessing's labels."""
    long = stays.end - stays.start >= LONG_STAY_DAYS * DAY
    in_at_24_h = stays.admission & (stays.end - stays.start > DAY)
    outcomes = {
        "MT": (in_at_24_h, stays.start + DAY, stays.p_death, stays.death),
        "LLOS": (in_at_24_h & (long | ~stays.death), stays.start + DAY, stays.p_long, long),
        "RA": (stays.admission & ~stays.death, stays.end, stays.p_back, stays.back),
    }
    found = [
        pd.DataFrame({"stay": np.arange(len(stays)), "outcome": name, "time": time, "probability": probability, "label": label})[chosen]
        for name, (chosen, time, probability, label) in outcomes.items()
    ]
    return pd.concat(found, ignore_index=True)


# ---- what is recorded ---------------------------------------------------------------------------------------------------


def draw_events(persons, stays, random) -> pd.DataFrame:
    """What is recorded: more with length and use of care; of the stay's system or a chronic one; severe facts with severity."""
    burden = burdens(persons)
    days = (stays.end - stays.start).to_numpy() / DAY
    care = persons.care.to_numpy()[stays.person.to_numpy()]
    # the first day is charted apart and densest: how much it holds must not tell how long the stay will be, or how it ends
    first = random.poisson(np.where(stays.admission, 65 * care**0.4 * days.clip(0, 1), 9 * care)).clip(1)
    later = random.poisson(np.where(stays.admission, 24 * care**0.4 * (days - 1).clip(0), 0)).clip(0, 3000)
    stay = np.repeat(np.arange(len(stays)), first + later)
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
    # on the last day of who goes home, or to a facility: what is charted is how ill they still are
    leaving = admission & ~stays.death.to_numpy()[stay] & (time > stays.end.to_numpy()[stay] - DAY) & (since_start > DAY)
    severity = np.where(leaving, stays.severity_at_discharge.to_numpy()[stay], severity)
    severe_logit = np.where(admission, 0.9 * severity - 1.6, -2.5) + 0.2 * burden[person, system] + 2.5 * near_death
    severe = (random.random(n) < sigmoid(severe_logit)) & (domain != 2)
    billing = admission & (domain == 0) & (random.random(n) < 0.4)
    # the discharge diagnoses tell how the stay ended
    severe = np.where(billing & stays.death.to_numpy()[stay], random.random(n) < 0.8, severe)
    fact_count = np.array([16, 4, 4, 4])[domain]  # of one system and severity, in terminology.build
    # a person's own form of an illness comes up again and again
    habit = (person * 7919 + system * 104729 + domain * 31) % fact_count
    fact = np.where(random.random(n) < 0.5, habit, random.integers(0, 1 << 30, n) % fact_count)
    # who goes to a facility is too weak to go home
    weak = leaving & stays.facility.to_numpy()[stay] & (domain == 0) & ~billing & (random.random(n) < 0.5)
    severe &= ~weak
    system, fact = np.where(weak, WEAKNESS[0], system), np.where(weak, WEAKNESS[1], fact)
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
