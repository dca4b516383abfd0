"""DeLong's test by person against the textbooks and published values, the paired bootstrap, and Holm's correction."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medrep.evaluation import significance

from .plain_figures import clustered, delong_test, examples, mixed, opened, pairs_in_order, seeds_of, unhurried

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
    found = delong_test(labels, a, b)
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
    found = delong_test(labels, a, b, persons)
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
    found = delong_test(poor, wfns, s100b)
    assert (len(poor), int(poor.sum())) == (113, 41)
    assert round(found["a"], 7) == 0.8236789 and round(found["b"], 7) == 0.7313686
    assert round(found["z"], 3) == 2.209 and round(found["p"], 5) == 0.02718
    # var(roc(aSAH$outcome, aSAH$s100b)) is 0.002668682, its interval 0.6301 to 0.8326; Stata's roctab has the standard error 0.0517 for the same
    _, _, moves = significance.auroc_influence(poor, s100b, np.arange(113))
    assert round(float(np.sum(moves**2)), 9) == 0.002668682
    # ci.auc in pROC's tests, for ndka
    area, _, moves = significance.auroc_influence(poor, ndka, np.arange(113))
    half = 1.959963985 * math.sqrt(np.sum(moves**2))
    assert (area - half, area, area + half) == pytest.approx((0.501244999271703, 0.611957994579946, 0.722670989888189), abs=1e-9)


def test_copies_of_a_person_make_nothing_surer():
    """Each person three times over: examples of their own would look surer, persons don't."""
    labels, a, b, persons = clustered(80, 4, most=1)
    one = delong_test(labels, a, b, persons)
    three = delong_test(*(np.tile(x, 3) for x in (labels, a, b, persons)))
    assert three == pytest.approx(one)
    assert delong_test(*(np.tile(x, 3) for x in (labels, a, b)))["p"] < one["p"]


def test_the_same_order_of_all_pairs_has_p_one_and_one_person_with_positives_has_none():
    labels, a, _, persons = clustered(30, 0)
    same = delong_test(labels, a, a / 3, persons)
    assert same["difference"] == 0 and same["p"] == 1 and same["z"] is None and same["low"] is None
    alone = delong_test(persons == 3, a, a[::-1].copy(), persons)
    assert alone["difference"] is not None and alone["p"] is None and alone["low"] is None
    nobody = delong_test(np.zeros(5, bool), np.arange(5), np.arange(5))
    assert set(nobody.values()) == {None}


def test_a_mean_over_seeds_sums_a_persons_influence_over_them():
    pairs = seeds_of(60, 3)
    found = significance.compare_macro_aurocs(pairs)
    moves, differences = {}, []
    for labels, a, b, persons in pairs:
        area_a, ids, moves_a = significance.auroc_influence(labels, a, persons)
        area_b, _, moves_b = significance.auroc_influence(labels, b, persons)
        differences.append(area_a - area_b)
        for person, move in zip(ids, moves_a - moves_b, strict=True):
            moves.setdefault(int(person), []).append(move / 3)
    error = math.sqrt(sum(sum(of_person) ** 2 for of_person in moves.values()))
    assert found["difference"] == pytest.approx(np.mean(differences)) and found["seeds"] == 3 and found["persons"] == len(moves)
    assert found["standard_error"] == pytest.approx(error) and found["z"] == pytest.approx(np.mean(differences) / error)
    # the same test three times over is no three tests
    once, thrice = significance.compare_macro_aurocs(pairs[:1]), significance.compare_macro_aurocs(pairs[:1] * 3)
    assert thrice["standard_error"] == pytest.approx(once["standard_error"]) and thrice["p"] == pytest.approx(once["p"])


def test_the_paired_bootstrap_is_that_of_drawn_persons_and_agrees_with_the_influences():
    pairs = seeds_of(150, 3)
    found = significance.compare_macro_aurocs(pairs, replicates=50, seed=3)
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
    many = significance.compare_macro_aurocs(pairs, replicates=1_000, seed=3)
    assert many["bootstrap_high"] - many["bootstrap_low"] == pytest.approx(many["high"] - many["low"], rel=0.15)


def test_under_no_difference_p_is_below_a_twentieth_about_one_time_in_twenty():
    """200 hospitals, two models that are alike but for noise of their own; examples of a person share their risk."""
    small = 0
    for hospital in range(200):
        chance = np.random.default_rng(hospital)
        labels, _, _, persons = clustered(80, hospital)
        own = chance.normal(0, 0.7, (2, 80))[:, persons]  # each model errs alike on all of a person's examples
        a, b = labels + own + chance.normal(0, 0.7, (2, len(labels)))
        small += delong_test(labels, a, b, persons)["p"] < 0.05
    assert 3 <= small <= 19, small  # 10 to be expected; 3 and 19 are three standard deviations away


@unhurried
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_so_on(p_values):
    adjusted = significance.holm_adjust(p_values)
    there = sorted(p for p in p_values if p is not None)
    for p, found in zip(p_values, adjusted, strict=True):
        # the step-down rule itself: the highest of all steps up to this one
        assert (
            found is None
            if p is None
            else found == pytest.approx(min(1, max((len(there) - k) * q for k, q in enumerate(there) if q < p or q == p and k == there.index(p))))
        )


def test_holm_of_the_textbook():
    assert significance.holm_adjust([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02], nan_ok=True)
