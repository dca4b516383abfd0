"""What the labels of all outcomes share."""

from medrep.cdm.labels import prediction_points, stays

from .random_stays import COHORT, DAY, START, admissions


def test_of_two_stays_with_one_prediction_time_the_one_that_ends_last_counts():
    rows = [(0, 1, START, START + 3 * DAY, None), (1, 1, START, START + 9 * DAY, None), (2, 1, START + 20 * DAY, START + 23 * DAY, None)]
    found = (
        prediction_points.drop_duplicate_prediction_times(stays.label_llos(admissions(*rows), COHORT)).order_by("visit_id").to_pyarrow().to_pylist()
    )
    assert [(row["boolean_value"], row["reason"]) for row in found] == [
        (False, prediction_points.DUPLICATE_PREDICTION_TIME),
        (True, None),
        (False, None),
    ]
