"""A pretrained model is refused for every setting that it has for good, also for one that somebody adds."""

from dataclasses import asdict, field, fields, make_dataclass, replace

import pytest
import yaml

from medrep.errors import UserError
from medrep.evaluation import arms
from medrep.settings import ModelConfig

OTHERS = {
    bool: lambda value: not value,
    int: lambda value: value + 1,
    float: lambda value: value + 0.5,
    str: lambda _: "tied",
    list: lambda _: ["age"],
}


@pytest.fixture
def pretrained(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": asdict(ModelConfig())}))
    return tmp_path


@pytest.mark.parametrize("name", [field.name for field in fields(ModelConfig)])
def test_every_setting_but_the_window_and_which_vectors_are_let_in_is_the_models_for_good(pretrained, name):
    arms.require_same_model(pretrained, ModelConfig())
    value = getattr(ModelConfig(), name)
    other = replace(ModelConfig(), **{name: OTHERS[type(value)](value)})
    if name in ("max_length", "project_vectors"):
        arms.require_same_model(pretrained, other)
        return
    with pytest.raises(UserError, match=f"was made with other settings .model.{name} was "):
        arms.require_same_model(pretrained, other)


def test_a_setting_that_is_new_is_noticed_and_an_old_model_has_its_default(pretrained, monkeypatch):
    wider = make_dataclass("ModelConfig", [("activation", str, field(default="gelu"))], bases=(ModelConfig,), frozen=True)
    monkeypatch.setattr(arms, "ModelConfig", wider)
    arms.require_same_model(pretrained, wider())
    with pytest.raises(UserError, match="model.activation was 'gelu' and is 'relu'"):
        arms.require_same_model(pretrained, wider(activation="relu"))
