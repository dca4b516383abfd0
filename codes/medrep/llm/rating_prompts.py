"""What a language model is told of an outcome whose features it rates: configs/prompts/rating.yaml, and the outcome in words."""

from dataclasses import replace

import yaml

from medrep import config, stamps
from medrep.cdm import outcomes
from medrep.errors import UserError
from medrep.settings import CohortConfig
from medrep.tables import LABELS

PROMPT_SETTINGS = ("prediction_at", "prediction_hours", "long_stay_days", "readmission_days", "onset_at")  # settings that a question tells of


def read_rating_prompt() -> dict:
    """configs/prompts/rating.yaml, checked."""
    prompt_texts = config.read_merged_yaml("prompts/rating.yaml")
    wrong = [f"has no {name}" for name in ("system", "user", "again", "own", "outcomes") if not prompt_texts.get(name)]
    wrong += [f"user does not say {{{name}}}" for name in ("outcome", "features") if f"{{{name}}}" not in str(prompt_texts.get("user", ""))]
    if wrong:
        raise UserError(f"configs/prompts/rating.yaml {'; '.join(wrong)}")
    return prompt_texts


def describe_outcome(prompt_texts: dict, outcome: str, cohort: CohortConfig) -> str:
    """When and what is predicted, for someone who does not know the outcome's name here."""
    known = outcomes.built_in_outcomes().get(outcome)
    name = outcome.replace("_", " ")
    by_hours = cohort.prediction_at == "hours"
    when = f"{cohort.prediction_hours:g} hours after admission" if by_hours else "one day after the midnight that follows admission"
    if known and known.kind == "phenotypes":
        assert known.source  # phenotypes are files
        name = ", ".join(entry.get("name", key) for key, entry in yaml.safe_load(known.source.read_text()).items())
    elif known and known.kind == "onset" and cohort.onset_at == "record":
        when = "in the course of a hospital stay"
    text = prompt_texts["outcomes"].get(outcome, prompt_texts["own"])
    for field, value in {
        "when": when,
        "long_stay_days": f"{cohort.long_stay_days:g}",
        "readmission_days": f"{cohort.readmission_days:g}",
        "name": name,
    }.items():
        text = text.replace(f"{{{field}}}", value)
    return text


def cohort_of_labels(outcome: str, cohort: CohortConfig) -> CohortConfig:
    """The settings that the home hospital's labels were made with, which may be others than today's."""
    stamp = stamps.read_stamp(LABELS.at(hospital=cohort.home, outcome=outcome))
    return replace(cohort, **{name: stamp["settings"][name] for name in PROMPT_SETTINGS if name in stamp["settings"]}) if stamp else cohort
