"""Every figure against a slow, plain second implementation, and DeLong's test against published values."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from medrep.evaluation import metrics

# 113 persons after a subarachnoid haemorrhage (Turck et al. 2010, Intensive Care Medicine 36:107), the data set aSAH of the R package
# pROC 1.18.0 (Robin et al. 2011, BMC Bioinformatics 12:77): poor outcome, WFNS grade, S100B and NDKA in hundredths of µg/l
POOR = "00001101001011001011101000000000100110110000000001100010001010011101101111000110100000010000000000001111110001000"
WFNS = "11113254125255125225211112121134214541425511241125521251222151125214524414121421232421451154221113125225552445111"
S100B = (
    "13 14 10 4 13 10 47 16 18 10 12 10 44 71 4 8 49 4 7 33 9 9 7 11 7 17 7 11 13 19 5 16 41 14 34 35 48 9 96 25 50 46 16 7 43 45 11 8 "
    "9 86 52 8 6 13 207 10 14 15 7 6 77 5 9 30 3 9 4 23 70 9 27 71 8 26 8 16 9 13 10 8 11 33 11 28 7 10 32 22 7 5 24 38 10 15 8 14 10 7 "
    "4 19 56 14 58 32 82 74 15 47 17 44 15 50 48"
)
NDKA = (
    "301 854 809 1042 1740 1275 600 1320 1554 601 1596 1786 518 890 1341 2075 1160 1611 3237 5482 3241 4994 4034 947 629 1253 654 630 "
    "8030 1280 980 981 985 1821 503 1404 2193 802 742 838 659 963 1312 796 1434 4143 763 706 1259 1356 387 944 766 1298 41919 2719 2227 "
    "995 2122 1173 1040 5883 639 1109 1222 1367 1721 2263 1290 970 2157 823 7257 1554 1051 1060 1457 519 963 461 2148 1730 1271 944 "
    "1107 1946 1083 537 1197 775 983 1055 2849 853 1257 1290 4683 1168 1267 901 957 3406 1172 1426 4761 1167 2458 1033 1387 1589 2243 "
    "679 1345"
)

examples = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=30)
"""Label, two scores with many ties, person."""
unhurried = settings(deadline=None)


def opened(rows):
    labels, a, b, persons = (np.array(column) for column in zip(*rows, strict=True))
    return labels.astype(bool), a / 5, b / 5, persons


def mixed(labels):
    return 0 < labels.sum() < len(labels)


def clustered(people, seed, spread=1.0, most=4):
    """Persons with 1 to `most` examples that share a risk of their own; two models' probabilities, rounded so that they tie."""
    chance = np.random.default_rng(seed)
    persons = np.repeat(np.arange(people), chance.integers(1, most + 1, people))
    own = chance.normal(0, spread, people)[persons]
    risk = own + chance.normal(0, 1, len(persons)) - 1
    labels = chance.random(len(persons)) < 1 / (1 + np.exp(-risk))
    a, b = (np.round(1 / (1 + np.exp(-0.8 * risk - 0.5 * own - chance.normal(0, noise, len(persons)))), 2) for noise in (0.5, 1.0))
    return labels, a, b, persons


# ---- one test: AUROC, average precision, threshold -----------------------------------------------------------


def pairs_in_order(labels, scores):
    pairs = [(p, n) for p in scores[labels] for n in scores[~labels]]
    return np.mean([(p > n) + (p == n) / 2 for p, n in pairs])


@unhurried
@given(examples)
def test_auroc_is_the_share_of_pairs_in_order_and_auprc_is_the_textbooks(rows):
    labels, scores, _, _ = opened(rows)
    figures = metrics.compute_metrics(labels, scores)
    assert figures["n"] == figures["persons"] == len(labels) and figures["positives"] == labels.sum()
    if not mixed(labels):
        assert figures["auroc"] is None and figures["auprc"] is None and figures["reason"] in ("no positives", "no negatives")
    else:
        assert figures["auroc"] == metrics.auroc(labels, scores) == pytest.approx(pairs_in_order(labels, scores))
        assert figures["auprc"] == metrics.average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    assert figures["brier"] == pytest.approx(np.mean((scores - labels) ** 2))


def test_no_examples_is_a_reason():
    nothing = metrics.compute_metrics(np.array([], bool), np.array([]), np.array([], np.int64), 0.5, replicates=50)
    assert nothing["reason"] == "no examples" and nothing["n"] == nothing["persons"] == 0
    assert all(nothing[name] is None and nothing[f"{name}_low"] is None for name in metrics.METRICS)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError):
        metrics.compute_metrics(np.array([True, False]), np.array([0.5, np.nan]))


@unhurried
@given(examples, st.data())
def test_a_weight_is_that_many_copies(rows, data):
    labels, scores, _, _ = opened(rows)
    weights = np.array(data.draw(st.lists(st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels)), min_size=1, max_size=3)))
    areas, precisions = metrics.auroc(labels, scores, weights), metrics.average_precision(labels, scores, weights)
    for weight, area, precision in zip(weights, areas, precisions, strict=True):
        y, s = np.repeat(labels, weight), np.repeat(scores, weight)
        if len(y) and mixed(y):
            assert area == pytest.approx(pairs_in_order(y, s)) and precision == pytest.approx(average_precision_score(y, s))
            assert metrics.auroc(labels, scores, weight) == area
        else:
            assert np.isnan(area) and np.isnan(precision) and metrics.auroc(labels, scores, weight) is None


@unhurried
@given(examples)
def test_the_best_threshold_is_the_lowest_of_the_highest_youden_index(rows):
    labels, scores, _, _ = opened(rows)
    threshold = metrics.youden_threshold(labels, scores)
    if not mixed(labels):
        assert threshold is None
        return
    true_positives = {t: int((scores >= t)[labels].sum()) for t in np.unique(scores)}
    true_negatives = {t: int((scores < t)[~labels].sum()) for t in np.unique(scores)}
    index = {t: true_positives[t] * int((~labels).sum()) + true_negatives[t] * int(labels.sum()) for t in np.unique(scores)}
    lowest = min(t for t in index if index[t] == max(index.values()))
    np.testing.assert_array_equal(scores >= threshold, scores >= lowest)
    if (below := scores[scores < lowest]).size:
        assert threshold == pytest.approx((lowest + below.max()) / 2)
    figures = metrics.compute_metrics(labels, scores, threshold=threshold)
    assert figures["sensitivity"] == pytest.approx((scores >= threshold)[labels].mean())
    assert figures["specificity"] == pytest.approx((scores < threshold)[~labels].mean())
    assert metrics.compute_metrics(labels, scores)["sensitivity"] is None  # no threshold is chosen on the tested examples themselves


def test_neighbouring_floats_have_a_threshold_between_or_on_the_higher():
    low = 0.3
    high = np.nextafter(low, 1)
    assert metrics.youden_threshold(np.array([False, True]), np.array([low, high])) == high


# ---- calibration -----------------------------------------------------------------------------------------------


def likelihood(labels, x, weights):
    return lambda line: np.sum(weights * (np.logaddexp(0, line[0] + line[1] * x) - labels * (line[0] + line[1] * x)))


def plain_calibration(labels, probabilities, weights=1.0):
    """Slope, its intercept, and the intercept with the slope at 1, by general minimisers."""
    x = np.log(np.clip(probabilities, 1e-7, 1 - 1e-7)) - np.log1p(-np.clip(probabilities, 1e-7, 1 - 1e-7))
    loss = likelihood(labels, x, weights)
    line = optimize.minimize(loss, [0, 0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 4000}).x
    return line[1], line[0], optimize.minimize_scalar(lambda move: loss([move, 1.0]), bracket=(-1, 1), tol=1e-12).x


@pytest.mark.parametrize("seed", range(8))
def test_calibration_is_the_maximum_that_a_general_minimiser_finds(seed):
    labels, a, b, _ = clustered(40, seed)
    for scores in (a, np.clip(b**4, 0, 1)):
        figures = metrics.compute_metrics(labels, scores)
        slope, _, large = plain_calibration(labels, scores)
        assert figures["calibration_slope"] == pytest.approx(slope, abs=1e-5)
        assert figures["calibration_intercept"] == pytest.approx(large, abs=1e-5)


def test_what_was_drawn_from_the_probabilities_is_calibrated_and_twice_as_extreme_has_half_the_slope():
    chance = np.random.default_rng(0)
    x = chance.normal(-1, 1.5, 50_000)
    labels = chance.random(50_000) < 1 / (1 + np.exp(-x))
    good, extreme, high = (metrics.compute_metrics(labels, 1 / (1 + np.exp(-z))) for z in (x, 2 * x, x + 1))
    assert good["calibration_slope"] == pytest.approx(1, abs=0.03) and good["calibration_intercept"] == pytest.approx(0, abs=0.03)
    assert extreme["calibration_slope"] == pytest.approx(0.5, abs=0.02)
    assert high["calibration_intercept"] == pytest.approx(-1, abs=0.03)


@unhurried
@given(examples)
def test_there_is_a_slope_exactly_where_the_classes_overlap(rows):
    labels, scores, _, _ = opened(rows)
    figures = metrics.compute_metrics(labels, scores)
    overlap = mixed(labels) and scores[labels].min() < scores[~labels].max() and scores[~labels].min() < scores[labels].max()
    assert (figures["calibration_slope"] is not None) == overlap
    assert (figures["calibration_intercept"] is not None) == mixed(labels)


def test_newton_converges_from_far_away():
    """Probabilities of 0 and 1 that are wrong now and then, and one pair that hardly overlaps."""
    chance = np.random.default_rng(1)
    labels = chance.random(2_000) < 0.01
    sure = np.where(chance.random(2_000) < 0.02, ~labels, labels).astype(float)
    figures = metrics.compute_metrics(labels, sure)
    slope, _, large = plain_calibration(labels, sure)
    assert figures["calibration_slope"] == pytest.approx(slope, abs=1e-5) and figures["calibration_intercept"] == pytest.approx(large, abs=1e-5)
    close = metrics.compute_metrics(np.array([False] * 50 + [True, False] + [True] * 50), np.r_[np.full(50, 0.1), 0.5, 0.50001, np.full(50, 0.9)])
    assert close["calibration_slope"] > 3


def test_a_model_that_says_nearly_the_same_of_everyone_has_a_slope():
    labels, scores, _, _ = clustered(60, 0)
    x = np.log(np.clip(scores, 0.01, 0.99) / (1 - np.clip(scores, 0.01, 0.99)))
    flat, steep = (metrics.compute_metrics(labels, 1 / (1 + np.exp(-z)))["calibration_slope"] for z in (x * 1e-6 - 5, x))
    assert flat * 1e-6 == pytest.approx(steep, rel=1e-4)


# ---- the bootstrap of persons --------------------------------------------------------------------------------------


def plain_draws(persons, replicates, seed):
    """The rows of every replicate: those of each drawn person, one person after the other."""
    ids = sorted(set(persons.tolist()))
    chance = np.random.default_rng(seed)
    return [np.concatenate([np.flatnonzero(persons == ids[i]) for i in chance.integers(0, len(ids), len(ids))]) for _ in range(replicates)]


def plain_interval(values, replicates):
    kept = [value for value in values if value is not None]
    return (None, None) if len(kept) < max(20, 0.8 * replicates) else (np.quantile(kept, 0.025), np.quantile(kept, 0.975))


@pytest.mark.parametrize("people, seed", [(40, 0), (25, 1), (60, 2)])
def test_intervals_are_those_of_drawn_persons_rows_put_together(people, seed):
    labels, scores, _, persons = clustered(people, seed)
    threshold, replicates = 0.3, 60
    figures = metrics.compute_metrics(labels, scores, persons, threshold, replicates, seed=7)
    found = {name: [] for name in metrics.METRICS}
    for rows in plain_draws(persons, replicates, seed=7):
        y, s = labels[rows], scores[rows]
        slope, _, large = plain_calibration(y, s)
        for name, value in (
            ("auroc", roc_auc_score(y, s)),
            ("auprc", average_precision_score(y, s)),
            ("brier", brier_score_loss(y, s)),
            ("calibration_slope", slope),
            ("calibration_intercept", large),
            ("sensitivity", np.mean(s[y] >= threshold)),
            ("specificity", np.mean(s[~y] < threshold)),
        ):
            found[name].append(value)
    for name in metrics.METRICS:
        assert (figures[f"{name}_low"], figures[f"{name}_high"]) == pytest.approx(plain_interval(found[name], replicates), abs=1e-5), name
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]


def test_replicates_without_a_class_are_left_out_and_too_few_give_no_interval():
    scores, persons = np.arange(40) / 40, np.arange(40)
    for positives, there in (([7], False), ([7, 20], True)):
        labels = np.isin(persons, positives)
        figures = metrics.compute_metrics(labels, scores, persons, 0.5, replicates=200, seed=1)
        found = [pairs_in_order(labels[rows], scores[rows]) for rows in plain_draws(persons, 200, 1) if mixed(labels[rows])]
        assert ((figures["auroc_low"], figures["auroc_high"]) == pytest.approx(plain_interval(found, 200))) if there else figures["auroc_low"] is None
        assert (figures["auprc_high"] is not None) == (figures["sensitivity_low"] is not None) == there
        assert figures["brier_low"] is not None and figures["specificity_high"] is not None  # these need no positive


def test_the_rows_order_changes_nothing_and_the_seed_does():
    labels, scores, other, persons = clustered(50, 3)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    for who in (persons, None, np.array([f"p{person}" for person in persons])):
        given_order = metrics.compute_metrics(labels, scores, who, 0.3, 100, seed=5)
        again = metrics.compute_metrics(labels[shuffled], scores[shuffled], None if who is None else who[shuffled], 0.3, 100, seed=5)
        assert given_order == again
        assert given_order != metrics.compute_metrics(labels, scores, who, 0.3, 100, seed=6)
    assert metrics.delong_test(labels, scores, other, persons) == metrics.delong_test(*(x[shuffled] for x in (labels, scores, other, persons)))
    pair = [(labels, scores, other, persons)]
    assert metrics.compare_macro_aurocs(pair, 50) == metrics.compare_macro_aurocs([tuple(x[shuffled] for x in pair[0])], 50)


def test_the_parts_in_which_replicates_are_held_change_nothing(monkeypatch):
    labels, scores, _, persons = clustered(50, 3)
    at_once = metrics.compute_metrics(labels, scores, persons, 0.3, 100)
    monkeypatch.setattr(metrics, "WEIGHTS_AT_ONCE", 1)
    one_by_one = metrics.compute_metrics(labels, scores, persons, 0.3, 100)
    assert list(one_by_one) == list(at_once) and list(one_by_one.values())[:-1] == pytest.approx(list(at_once.values())[:-1], rel=1e-9)


def test_a_figures_interval_has_its_own_width():
    """AUPRC varies more than AUROC where positives are rare: one can't borrow the other's variance."""
    chance = np.random.default_rng(0)
    labels = np.arange(3_000) < 60
    figures = metrics.compute_metrics(labels, 1 / (1 + np.exp(-chance.normal(1.5 * labels - 3, 1))), replicates=300)
    assert figures["auprc_high"] - figures["auprc_low"] > 1.5 * (figures["auroc_high"] - figures["auroc_low"])


def test_intervals_by_person_hold_what_they_should_where_intervals_by_example_do_not():
    """120 hospitals of 60 persons with 6 near copies each: 95 % of their intervals should hold the AUROC of a very large one."""
    truth = None
    held = {"person": 0, "example": 0, "influence": 0}
    for hospital in range(-1, 120):
        chance = np.random.default_rng(1_000 + hospital)
        people = 20_000 if hospital < 0 else 60
        persons = np.repeat(np.arange(people), 6)
        risk = chance.normal(0, 1, people)
        labels = (chance.random(people) < 1 / (1 + np.exp(-risk)))[persons]
        scores = 1 / (1 + np.exp(-(1.2 * risk + chance.normal(0, 1, people))[persons] - chance.normal(0, 0.2, len(persons))))
        if hospital < 0:
            truth = metrics.auroc(labels, scores)
            continue
        for unit, who in (("person", persons), ("example", None)):
            figures = metrics.compute_metrics(labels, scores, who, replicates=200, seed=hospital)
            held[unit] += figures["auroc_low"] <= truth <= figures["auroc_high"]
        area, _, moves = metrics.auroc_influence(labels, scores, persons)
        held["influence"] += abs(area - truth) <= 1.96 * math.sqrt(np.sum(moves**2))
    assert 0.88 <= held["person"] / 120 <= 0.99 and 0.88 <= held["influence"] / 120 <= 0.99, held
    assert held["example"] / 120 < 0.75, held


# ---- differences -------------------------------------------------------------------------------------------------------


def psi(positive, negative):
    return 1.0 if positive > negative else 0.5 if positive == negative else 0.0


def textbook_delong(labels, a, b):
    """The paper's formulas, pair by pair: AUROCs and the variance of their difference."""
    m, n = int(labels.sum()), int((~labels).sum())
    placed = []
    for scores in (a, b):
        x, y = scores[labels], scores[~labels]
        v10 = [sum(psi(x[i], y[j]) for j in range(n)) / n for i in range(m)]
        v01 = [sum(psi(x[i], y[j]) for i in range(m)) / m for j in range(n)]
        placed.append((sum(v10) / m, v10, v01))
    s10, s01 = np.zeros((2, 2)), np.zeros((2, 2))
    for r, s in itertools.product(range(2), repeat=2):
        s10[r, s] = sum((placed[r][1][i] - placed[r][0]) * (placed[s][1][i] - placed[s][0]) for i in range(m)) / (m - 1)
        s01[r, s] = sum((placed[r][2][j] - placed[r][0]) * (placed[s][2][j] - placed[s][0]) for j in range(n)) / (n - 1)
    covariance = s10 / m + s01 / n
    return placed[0][0], placed[1][0], covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]


def textbook_obuchowski(labels, a, b, persons, shared=None):
    """The variance of the difference, placements summed by person; `shared` replaces the factor I/(I - 1) of the cross term."""
    m, n = int(labels.sum()), int((~labels).sum())
    ids = sorted(set(persons.tolist()))
    positive_ids, negative_ids = len(set(persons[labels].tolist())), len(set(persons[~labels].tolist()))
    v10, v01 = np.zeros((2, len(ids))), np.zeros((2, len(ids)))  # summed, less what the AUROC gives to expect
    for r, scores in enumerate((a, b)):
        area = pairs_in_order(labels, scores)
        for k, person in enumerate(ids):
            for i in np.flatnonzero(persons == person):
                if labels[i]:
                    v10[r, k] += np.mean([psi(scores[i], y) for y in scores[~labels]]) - area
                else:
                    v01[r, k] += np.mean([psi(x, scores[i]) for x in scores[labels]]) - area
    x, y = v10[0] - v10[1], v01[0] - v01[1]
    s10 = positive_ids / ((positive_ids - 1) * m) * np.sum(x * x)
    s01 = negative_ids / ((negative_ids - 1) * n) * np.sum(y * y)
    s11 = (shared or len(ids) / (len(ids) - 1)) * np.sum(x * y)
    return s10 / m + s01 / n + 2 * s11 / (m * n)


@unhurried
@given(examples)
def test_with_one_example_a_person_it_is_delongs_test(rows):
    labels, a, b, _ = opened(rows)
    found = metrics.delong_test(labels, a, b)
    if labels.sum() < 2 or (~labels).sum() < 2:
        assert found["z"] is None and found["p"] is None and found["low"] is None
        assert (found["difference"] is None) != mixed(labels)
        return
    area_a, area_b, variance = textbook_delong(labels, a, b)
    assert (found["a"], found["b"]) == pytest.approx((area_a, area_b))
    if variance < 1e-12:
        assert found["z"] is None or abs(found["z"]) < 1e-6 or abs(found["z"]) > 1e5
        return
    assert found["z"] == pytest.approx((area_a - area_b) / math.sqrt(variance), abs=1e-9)
    assert found["p"] == pytest.approx(math.erfc(abs(found["z"]) / math.sqrt(2)))
    assert (found["low"], found["high"]) == pytest.approx(
        (area_a - area_b - 1.959963985 * math.sqrt(variance), area_a - area_b + 1.959963985 * math.sqrt(variance))
    )


@pytest.mark.parametrize("seed", range(6))
def test_with_several_examples_a_person_it_is_obuchowskis(seed):
    labels, a, b, persons = clustered(25, seed)
    found = metrics.delong_test(labels, a, b, persons)
    variance = (found["difference"] / found["z"]) ** 2
    positive_ids, negative_ids = len(np.unique(persons[labels])), len(np.unique(persons[~labels]))
    shared = math.sqrt(positive_ids / (positive_ids - 1) * negative_ids / (negative_ids - 1))
    assert variance == pytest.approx(textbook_obuchowski(labels, a, b, persons, shared))  # ours: never negative
    assert variance == pytest.approx(textbook_obuchowski(labels, a, b, persons), rel=0.05)  # hers


def test_delong_gives_the_published_values():
    """pROC's own example: roc.test(roc(aSAH$outcome, aSAH$wfns), roc(aSAH$outcome, aSAH$s100b)) prints Z = 2.209, p-value = 0.02718."""
    poor = np.array([cell == "1" for cell in POOR])
    wfns = np.array([float(cell) for cell in WFNS])
    s100b, ndka = (np.array([float(cell) for cell in cells.split()]) / 100 for cells in (S100B, NDKA))
    found = metrics.delong_test(poor, wfns, s100b)
    assert (len(poor), int(poor.sum())) == (113, 41)
    assert round(found["a"], 7) == 0.8236789 and round(found["b"], 7) == 0.7313686
    assert round(found["z"], 3) == 2.209 and round(found["p"], 5) == 0.02718
    # var(roc(aSAH$outcome, aSAH$s100b)) is 0.002668682, its interval 0.6301 to 0.8326; Stata's roctab has the standard error 0.0517 for the same
    _, _, moves = metrics.auroc_influence(poor, s100b, np.arange(113))
    assert round(float(np.sum(moves**2)), 9) == 0.002668682
    # ci.auc in pROC's tests, for ndka
    area, _, moves = metrics.auroc_influence(poor, ndka, np.arange(113))
    half = 1.959963985 * math.sqrt(np.sum(moves**2))
    assert (area - half, area, area + half) == pytest.approx((0.501244999271703, 0.611957994579946, 0.722670989888189), abs=1e-9)


def test_copies_of_a_person_make_nothing_surer():
    """Each person three times over: examples of their own would look surer, persons don't."""
    labels, a, b, persons = clustered(80, 4, most=1)
    one = metrics.delong_test(labels, a, b, persons)
    three = metrics.delong_test(*(np.tile(x, 3) for x in (labels, a, b, persons)))
    assert three == pytest.approx(one)
    assert metrics.delong_test(*(np.tile(x, 3) for x in (labels, a, b)))["p"] < one["p"]


def test_the_same_order_of_all_pairs_has_p_one_and_one_person_with_positives_has_none():
    labels, a, _, persons = clustered(30, 0)
    same = metrics.delong_test(labels, a, a / 3, persons)
    assert same["difference"] == 0 and same["p"] == 1 and same["z"] is None and same["low"] is None
    alone = metrics.delong_test(persons == 3, a, a[::-1].copy(), persons)
    assert alone["difference"] is not None and alone["p"] is None and alone["low"] is None
    nobody = metrics.delong_test(np.zeros(5, bool), np.arange(5), np.arange(5))
    assert set(nobody.values()) == {None}


def seeds_of(people, seeds, first=0):
    """Overlapping tests of one arm pair: every seed tests a random half of the persons."""
    labels, a, b, persons = clustered(people, first)
    pairs = []
    for seed in range(seeds):
        chance = np.random.default_rng(seed)
        rows = np.isin(persons, chance.permutation(people)[: people // 2])
        pairs.append(tuple(x[rows] for x in (labels, a, np.round(b + chance.normal(0, 0.05, len(b)), 2), persons)))
    return pairs


def test_a_mean_over_seeds_sums_a_persons_influence_over_them():
    pairs = seeds_of(60, 3)
    found = metrics.compare_macro_aurocs(pairs)
    moves, differences = {}, []
    for labels, a, b, persons in pairs:
        area_a, ids, moves_a = metrics.auroc_influence(labels, a, persons)
        area_b, _, moves_b = metrics.auroc_influence(labels, b, persons)
        differences.append(area_a - area_b)
        for person, move in zip(ids, moves_a - moves_b, strict=True):
            moves.setdefault(int(person), []).append(move / 3)
    error = math.sqrt(sum(sum(of_person) ** 2 for of_person in moves.values()))
    assert found["difference"] == pytest.approx(np.mean(differences)) and found["seeds"] == 3 and found["persons"] == len(moves)
    assert found["standard_error"] == pytest.approx(error) and found["z"] == pytest.approx(np.mean(differences) / error)
    # the same test three times over is no three tests
    once, thrice = metrics.compare_macro_aurocs(pairs[:1]), metrics.compare_macro_aurocs(pairs[:1] * 3)
    assert thrice["standard_error"] == pytest.approx(once["standard_error"]) and thrice["p"] == pytest.approx(once["p"])


def test_the_paired_bootstrap_is_that_of_drawn_persons_and_agrees_with_the_influences():
    pairs = seeds_of(150, 3)
    found = metrics.compare_macro_aurocs(pairs, replicates=50, seed=3)
    everyone = np.unique(np.concatenate([persons for *_, persons in pairs]))
    chance = np.random.default_rng(3)
    plain = []
    for _ in range(50):
        drawn = everyone[chance.integers(0, len(everyone), len(everyone))]
        of_seeds = []
        for labels, a, b, persons in pairs:
            rows = np.concatenate([np.flatnonzero(persons == person) for person in drawn])
            of_seeds.append(roc_auc_score(labels[rows], a[rows]) - roc_auc_score(labels[rows], b[rows]))
        plain.append(np.mean(of_seeds))
    plain = np.array(plain)
    assert (found["bootstrap_low"], found["bootstrap_high"]) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])))
    assert found["bootstrap_p"] == pytest.approx(min(1, 2 * (1 + min((plain <= 0).sum(), (plain >= 0).sum())) / 51))
    many = metrics.compare_macro_aurocs(pairs, replicates=1_000, seed=3)
    assert many["bootstrap_high"] - many["bootstrap_low"] == pytest.approx(many["high"] - many["low"], rel=0.15)


def test_under_no_difference_p_is_below_a_twentieth_about_one_time_in_twenty():
    """200 hospitals, two models that are alike but for noise of their own; examples of a person share their risk."""
    small = 0
    for hospital in range(200):
        chance = np.random.default_rng(hospital)
        labels, _, _, persons = clustered(80, hospital)
        own = chance.normal(0, 0.7, (2, 80))[:, persons]  # each model errs alike on all of a person's examples
        a, b = labels + own + chance.normal(0, 0.7, (2, len(labels)))
        small += metrics.delong_test(labels, a, b, persons)["p"] < 0.05
    assert 3 <= small <= 19, small  # 10 to be expected; 3 and 19 are three standard deviations away


def test_means_over_seeds_are_drawn_together():
    pairs = seeds_of(40, 3)
    tests = [(labels, np.clip(a, 0.01, 0.99), persons) for labels, a, _, persons in pairs]
    found = metrics.compute_macro_metrics(tests, replicates=25, seed=2)
    everyone = np.unique(np.concatenate([persons for *_, persons in tests]))
    chance = np.random.default_rng(2)
    areas, precisions, slopes = [], [], []
    for _ in range(25):
        drawn = everyone[chance.integers(0, len(everyone), len(everyone))]
        rows = [np.concatenate([np.flatnonzero(persons == person) for person in drawn]) for *_, persons in tests]
        areas.append(np.mean([roc_auc_score(y[r], s[r]) for (y, s, _), r in zip(tests, rows, strict=True)]))
        precisions.append(np.mean([average_precision_score(y[r], s[r]) for (y, s, _), r in zip(tests, rows, strict=True)]))
        slopes.append(np.mean([plain_calibration(y[r], s[r])[0] for (y, s, _), r in zip(tests, rows, strict=True)]))
    for name, values in (("auroc", areas), ("auprc", precisions), ("calibration_slope", slopes)):
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-5)
    assert found["auroc"] == pytest.approx(np.mean([roc_auc_score(y, s) for y, s, _ in tests]))
    assert found["tests"] == 3 and found["persons"] == len(everyone)
    # one seed's means are its figures; a seed of one class is left out
    one, figures = metrics.compute_macro_metrics(tests[:1], 60, seed=9), metrics.compute_metrics(*tests[0], replicates=60, seed=9)
    assert {name: one[name] for name in one if name != "tests"} == pytest.approx({name: figures[name] for name in one if name != "tests"})
    empty = (np.zeros(3, bool), np.full(3, 0.5), np.arange(3))
    assert (
        metrics.compute_macro_metrics([tests[0], empty])["auroc"] == one["auroc"] and metrics.compute_macro_metrics([empty], 50)["auroc_low"] is None
    )
    few = metrics.compute_macro_metrics(tests, 25, seed=2, intervals=["auprc"])
    assert few["auprc_low"] == found["auprc_low"] and "auroc_low" not in few and few["auroc"] == found["auroc"]
    assert metrics.compute_macro_metrics([], 50)["auroc"] is None and metrics.compare_macro_aurocs([], 50)["bootstrap_p"] is None


def test_several_labels_are_drawn_together():
    labels, a, b, persons = clustered(40, 0)
    truth = np.column_stack([labels, ~labels]).astype(float)
    truth[persons % 3 == 0, 1] = np.nan  # a third of the persons is left out of the second label
    found = metrics.macro_bootstrap_intervals(truth, np.column_stack([a, 1 - b]), persons, 40, seed=1)
    there = persons % 3 != 0
    means = metrics.compute_macro_metrics([(labels, a, persons), (~labels[there], 1 - b[there], persons[there])], 40, seed=1)
    assert found == {name: means[name] for name in found} and found["auroc_low"] < means["auroc"] < found["auroc_high"]


@unhurried
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_so_on(p_values):
    adjusted = metrics.holm_adjust(p_values)
    there = sorted(p for p in p_values if p is not None)
    for p, found in zip(p_values, adjusted, strict=True):
        # the step-down rule itself: the highest of all steps up to this one
        assert (
            found is None
            if p is None
            else found == pytest.approx(min(1, max((len(there) - k) * q for k, q in enumerate(there) if q < p or q == p and k == there.index(p))))
        )


def test_holm_of_the_textbook():
    assert metrics.holm_adjust([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02], nan_ok=True)


# ---- recalibration ------------------------------------------------------------------------------------------------------


def test_recalibration_gives_slope_one_and_intercept_nought_on_what_it_was_fitted_to():
    labels, scores, _, _ = clustered(200, 0)
    figures = metrics.compute_metrics(labels, metrics.recalibrate(labels, scores**3, scores**3))
    assert figures["calibration_slope"] == pytest.approx(1, abs=1e-6) and figures["calibration_intercept"] == pytest.approx(0, abs=1e-6)
    assert figures["auroc"] == pytest.approx(metrics.auroc(labels, scores))  # the order stays
    slope, intercept, _ = plain_calibration(labels, scores**3)
    target = np.array([0.1, 0.9])
    expected = 1 / (1 + np.exp(-intercept - slope * np.log(target / (1 - target))))
    assert metrics.recalibrate(labels, scores**3, target) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "labels, probabilities",
    [
        ([0, 0, 0, 0], [0.2, 0.3, 0.4, 0.5]),
        ([1, 1], [0.01, 0.02]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),
        ([1, 0, 1, 0, 1, 0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        ([0, 1], [0.5, 0.5]),
        ([0], [1.0]),
    ],
)
def test_of_one_class_separated_or_turned_about_only_the_intercept_moves(labels, probabilities):
    labels, probabilities = np.array(labels, bool), np.array(probabilities)
    target = np.linspace(0.05, 0.95, 10)
    moved = metrics.recalibrate(labels, probabilities, target)
    shift = np.log(moved / (1 - moved)) - np.log(target / (1 - target))
    assert np.ptp(shift) < 1e-9
    # the penalised likelihood: the labels' and that of one more example, half positive and half negative
    x = np.log(np.clip(probabilities, 1e-7, 1 - 1e-7) / (1 - np.clip(probabilities, 1e-7, 1 - 1e-7)))
    penalised = optimize.minimize_scalar(lambda a: likelihood(labels, x, 1.0)([a, 1.0]) + np.logaddexp(0, a) - a / 2, bracket=(-1, 1), tol=1e-12).x
    assert shift[0] == pytest.approx(penalised, abs=1e-6)


def test_without_labels_nothing_changes():
    target = np.array([0.1, 0.5])
    assert metrics.recalibrate(np.array([], bool), np.array([]), target) == pytest.approx(target)


def test_jeffreys_half_for_equal_logits():
    """Four negatives at probability 0.5: (0 + 0.5) / (4 + 1) is what Jeffreys' prior gives."""
    assert metrics.recalibrate(np.zeros(4, bool), np.full(4, 0.5), np.array([0.5])) == pytest.approx([0.1])


def test_the_interval_of_a_mean_over_labels_draws_the_same_persons_for_each():
    chance = np.random.default_rng(3)
    persons = np.repeat(np.arange(30), 2)
    truth = (chance.random((60, 3)) < [0.5, 0.3, 0.1]).astype(float)
    truth[chance.random((60, 3)) < 0.1] = np.nan
    scores = np.round(np.nan_to_num(truth) * 0.3 + chance.random((60, 3)), 1) / 2
    found = metrics.macro_bootstrap_intervals(truth, scores, persons, 50, seed=4)
    means = {"auroc": [], "auprc": []}
    for rows in plain_draws(persons, 50, seed=4):
        parts = {"auroc": [], "auprc": []}
        for i in range(3):
            known = rows[~np.isnan(truth[rows, i])]
            if 0 < truth[known, i].sum() < len(known):
                parts["auroc"].append(roc_auc_score(truth[known, i], scores[known, i]))
                parts["auprc"].append(average_precision_score(truth[known, i], scores[known, i]))
        for name, values in parts.items():
            means[name].append(np.mean(values))
    for name, values in means.items():
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(plain_interval(values, 50))
