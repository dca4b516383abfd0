"""Flow charts of cohorts."""

from medrep.report.disclosure import CountRegistry
from medrep.report.sections.flows import flow_chart, phenotype_details


def test_flows_of_phenotypes_and_of_labels_of_the_users_own():
    counts = CountRegistry(11)
    flow = {
        "visits": 900,
        "visits of persons with records": 800,
        "admissions": 500,
        "no admissions": {"not overnight": 300},
        "left out": {"not still in at the prediction time": 30},
        "eligible": 470,
        "labelled": {"a": 470, "b": 400},
        "positive": {"a": 40, "b": 5},
    }
    chart = flow_chart(counts, "mimic", "Pheno", flow)
    assert [(step.name, str(step.count)) for step in chart.steps] == [
        ("visits", "900"),
        ("of persons with records", "800"),
        ("admissions", "500"),
        ("labelled prediction points", "470"),
    ]
    (details,) = phenotype_details(counts, "Pheno", {"mimic": flow})
    (table,) = details.parts
    assert [[str(value) for value in row] for row in table.rows] == [["a", "mimic", "470", "40"], ["b", "mimic", "400", "<11"]]
    own = flow_chart(
        counts, "mimic", "icu", {"rows": 200, "left out": {"no record of the person": 20}, "eligible": 180, "labelled": 180, "positive": 50}
    )
    assert [str(step.count) for step in own.steps] == ["200", "180", "50"] and own.steps[1].left_out[0][0] == "no record of the person"
    merged = flow_chart(counts, "mimic", "RA", flow | {"stays": 480, "left out": {}, "labelled": 480, "positive": 60})
    assert [(step.name, str(step.count)) for step in merged.steps][-3:] == [
        ("stays", "480"),
        ("labelled prediction points", "480"),
        ("positive", "60"),
    ]
    assert [(reason, str(n)) for reason, n in merged.steps[-3].left_out] == [("joined as transfers to another", "20")]
