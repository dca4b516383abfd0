"""Default < configs < MEDREP_CONFIGS < --set; unknown names are refused."""

import pytest

from medrep import config
from medrep.errors import UserError
from medrep.settings import CohortConfig, HospitalConfig


def test_the_published_sizes_are_the_defaults():
    sizes = config.load_experiment("behrt").model
    assert (sizes.hidden_size, sizes.num_layers, sizes.num_heads, sizes.intermediate_size, sizes.max_length) == (768, 6, 12, 512, 2048)


def test_layers_are_laid_over_one_another_key_by_key(monkeypatch, tmp_path):
    (tmp_path / "cohort.yaml").write_text("min_events: 3")
    monkeypatch.setenv("MEDREP_CONFIGS", str(tmp_path))
    cohort = config.load("cohort", ["cohort.min_age=16"])
    assert (cohort.min_events, cohort.min_age, cohort.home) == (3, 16, "mimic")


def test_the_demo_gives_finetuning_half_of_the_persons(monkeypatch):
    monkeypatch.setenv("MEDREP_CONFIGS", "configs/demo")
    assert config.load("cohort").split_shares["test"] == 0.25


def test_a_hospital_without_a_file_has_the_defaults():
    assert config.load("hospital", hospital="snuh") == HospitalConfig()


def test_a_part_of_a_hospital_has_the_settings_of_the_whole_below_its_own(monkeypatch, tmp_path):
    (tmp_path / "hospitals").mkdir()
    (tmp_path / "hospitals" / "eicu_two.yaml").write_text("source_folder: eicu\nwhere: {hospitalid: [73, 264]}\nhistory_types: [1]\n")
    monkeypatch.setenv("MEDREP_CONFIGS", str(tmp_path))
    whole, part = config.load("hospital", hospital="eicu"), config.load("hospital", ["hospital.stay_begins=hospital_admission"], hospital="eicu_two")
    assert part.admission_source_pattern == whole.admission_source_pattern != "" and part.follow_up_ends == "discharge"
    assert (part.where, part.history_types, part.stay_begins) == ({"hospitalid": [73, 264]}, [1], "hospital_admission")
    with pytest.raises(UserError, match="hospital.follow_up_ends is 'never': it must be last_record or unknown or discharge"):
        config.load("hospital", ["hospital.follow_up_ends=never"], hospital="eicu")
    with pytest.raises(UserError, match="--set hospital.source_folder is not possible.* write source_folder into configs/hospitals/eicu_two.yaml"):
        config.load("hospital", ["hospital.source_folder=mimic"], hospital="eicu_two")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["cohort.min_evnts=3"], "cohort.min_evnts is unknown; known are .*min_events"),
        (["cohort.min_events=many"], "cohort.min_events is 'many', which is not int"),
        (["min_events=3"], "write section.name=value"),
        (["cohort.min_events=many", "cohort.x=1"], "not int; cohort.x is unknown|cohort.x is unknown.*not int"),
    ],
)
def test_mistakes_are_all_named_at_once(overrides, words):
    with pytest.raises(UserError, match=words):
        config.load("cohort", overrides)


def test_a_folder_of_settings_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setenv("MEDREP_CONFIGS", "configs/nowhere")
    with pytest.raises(UserError, match="MEDREP_CONFIGS=configs/nowhere is not a folder"):
        config.load("cohort")


def test_the_papers_cohort_is_laid_over_the_default(monkeypatch):
    monkeypatch.setenv("COHORT", "paper")
    paper, default = config.load("cohort"), CohortConfig()
    assert (paper.billing, paper.decile_persons, paper.onset_at, paper.admission_visit_concepts) == ("as_recorded", "all", "record", [9201, 262])
    assert paper.split_shares == default.split_shares and paper.min_events == default.min_events
    monkeypatch.setenv("COHORT", "mine")
    with pytest.raises(UserError, match="COHORT=mine: there is no configs/cohort-mine.yaml; known are paper"):
        config.load("cohort")


def test_the_papers_encoder_is_deberta_trained_on_masked_words_and_the_default_is_read_as_it_is(monkeypatch):
    default = config.load("encoder")
    assert (default.model, default.training, default.pooling) == ("minilm", "none", "own")
    monkeypatch.setenv("ENCODER", "paper")
    paper = config.load("encoder")
    assert (paper.model, paper.training, paper.pooling) == ("microsoft/deberta-base", "masked", "cls")
    monkeypatch.setenv("ENCODER", "mine")
    with pytest.raises(UserError, match="ENCODER=mine: there is no configs/encoder-mine.yaml; known are paper"):
        config.load("encoder")


def test_the_papers_graph_is_grace_on_all_relationships(monkeypatch):
    default = config.load("graph")
    assert (default.objective, default.decile_chain, default.hops) == ("links", True, 2)
    monkeypatch.setenv("GRAPH", "paper")
    paper = config.load("graph")
    assert (paper.objective, paper.relationships, paper.skip, paper.decile_chain) == ("grace", ["all"], False, False)


def test_edges_are_hierarchical_and_mapping_relationships_by_both_names():
    names = config.load("graph").relationships
    assert {"Is a", "Subsumes", "RxNorm has ing", "RxNorm ing of", "ATC - RxNorm pr lat", "Maps to", "Mapped from"} <= set(names)
    assert len(set(names)) == len(names) and len(names) % 2 == 0 and all(name == name.strip() and len(name) <= 20 for name in names)
    assert not {"Has finding site", "RxNorm has dose form", "Has status"} & set(names)
    assert config.load("graph", ["graph.relationships=[all]"]).relationships == ["all"]


def test_a_choice_that_is_none_names_the_choices():
    with pytest.raises(UserError, match="cohort.billing is 'never': it must be at_discharge or as_recorded"):
        config.load("cohort", ["cohort.billing=never"])
