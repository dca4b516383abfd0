"""How arms are drawn on the report page."""

from medrep.report.arms import arm_styles, rep_style


def test_an_arm_looks_like_its_representation_wherever_it_is_drawn():
    plain = [("mimic", "behrt", "linear", rep, "", oov) for rep, oov in (("none", "unk"), ("description", ""), ("medrep", ""))]
    by_ancestor, frozen = ("mimic", "behrt", "linear", "none", "", "ancestor"), ("mimic", "behrt", "linear", "medrep", "frozen", "")
    styles = arm_styles([by_ancestor, frozen, *plain])
    assert len(set(styles.values())) == 5 and all(styles[arm] == rep_style(arm[3]) for arm in plain)
