"""Paired bootstrap over dialogues: invariances, agreement with theory, corpus metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from sptune.errors import UsageError
from sptune.evaluation.metrics.resampling import bleu_of_rows, distinct_of_rows
from sptune.evaluation.significance import BootstrapResult, paired_bootstrap

DIALOGUES = [f"d{number}" for number in range(40) for _ in range(5)]


@pytest.fixture
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    return 20.0 + np.repeat(rng.normal(0, 3, 40), 5) + rng.normal(0, 2, 200)


def mean_of(values: np.ndarray):
    return lambda rows: float(values[rows].mean())


def test_a_constant_gain_is_certain(values: np.ndarray) -> None:
    result = paired_bootstrap(values + 1.0, values, DIALOGUES, samples=500)
    assert (result.difference, result.low, result.high) == pytest.approx((1.0, 1.0, 1.0))
    assert result.p_value == pytest.approx(0.0)


def test_a_system_does_not_differ_from_itself(values: np.ndarray) -> None:
    assert paired_bootstrap(values, values, DIALOGUES) == BootstrapResult(0.0, 0.0, 0.0, 1.0)


def test_swapping_the_systems_flips_the_sign(values: np.ndarray) -> None:
    other = values[::-1].copy()
    there, back = paired_bootstrap(values, other, DIALOGUES), paired_bootstrap(other, values, DIALOGUES)
    assert (there.difference, there.low, there.high) == pytest.approx((-back.difference, -back.high, -back.low))
    assert there.p_value == pytest.approx(back.p_value)


def test_order_of_replies_does_not_matter(values: np.ndarray) -> None:
    other = values + np.random.default_rng(1).normal(0.3, 1, 200)
    order = np.random.default_rng(2).permutation(200)
    shuffled = paired_bootstrap(values[order], other[order], [DIALOGUES[row] for row in order], samples=300)
    straight = paired_bootstrap(values, other, DIALOGUES, samples=300)
    assert (shuffled.low, shuffled.high, shuffled.p_value) == pytest.approx(
        (straight.low, straight.high, straight.p_value)
    )


def test_the_seed_decides(values: np.ndarray) -> None:
    other = values[::-1].copy()
    assert paired_bootstrap(values, other, DIALOGUES, seed=1) == paired_bootstrap(values, other, DIALOGUES, seed=1)
    assert paired_bootstrap(values, other, DIALOGUES, seed=1) != paired_bootstrap(values, other, DIALOGUES, seed=2)


def test_repeating_replies_inside_a_dialogue_adds_no_certainty(values: np.ndarray) -> None:
    """Ten copies of each reply in its dialogue leave the interval; replies taken as dialogues shrink it."""
    none = np.zeros(200)
    plain = paired_bootstrap(values, none, DIALOGUES)
    copied = paired_bootstrap(np.repeat(values, 10), np.repeat(none, 10), np.repeat(DIALOGUES, 10).tolist())
    assert (copied.difference, copied.low, copied.high) == pytest.approx((plain.difference, plain.low, plain.high))
    independent = paired_bootstrap(values, none, [str(row) for row in range(200)])
    assert independent.high - independent.low < 0.7 * (plain.high - plain.low)


@pytest.mark.parametrize("replace", [True, False])
def test_interval_agrees_with_the_normal_theory_of_cluster_means(values: np.ndarray, replace: bool) -> None:
    """Both ways of resampling do, for a mean."""
    means = values.reshape(40, 5).mean(axis=1)
    half = 1.96 * means.std(ddof=0) / math.sqrt(40)
    none = np.zeros(200)
    interval = paired_bootstrap(values, none, DIALOGUES, samples=4000, replace=replace)
    assert interval.difference == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.12)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.12)
    wider = paired_bootstrap(values, none, DIALOGUES, samples=4000, level=0.99, replace=replace)
    assert wider.low < interval.low < interval.high < wider.high


def test_p_value_is_near_that_of_a_t_test(values: np.ndarray) -> None:
    other = values - np.repeat(np.random.default_rng(5).normal(0.25, 1.0, 40), 5)
    differences = (values - other).reshape(40, 5).mean(axis=1)
    expected = float(ttest_1samp(differences, 0.0).pvalue)
    assert 0.01 < expected < 0.6
    assert paired_bootstrap(values, other, DIALOGUES, samples=4000).p_value == pytest.approx(expected, abs=0.02)


def test_false_alarms_are_as_rare_as_the_level_says() -> None:
    """Systems that differ by noise only: about 5% of p-values may fall below 0.05."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(200, 200))
    alarms = [paired_bootstrap(row, np.zeros(200), DIALOGUES, samples=200, seed=1).p_value <= 0.05 for row in noise]
    assert 0.01 <= np.mean(alarms) <= 0.11


def test_a_corpus_function_that_is_a_mean_gives_the_same_result(values: np.ndarray) -> None:
    other = values[::-1].copy()
    vectorised = paired_bootstrap(values, other, DIALOGUES, samples=200)
    called = paired_bootstrap(mean_of(values), mean_of(other), DIALOGUES, samples=200)
    assert (called.low, called.high, called.p_value) == pytest.approx(
        (vectorised.low, vectorised.high, vectorised.p_value)
    )


def test_bleu_and_distinct_can_be_compared() -> None:
    words = ["sail", *(f"w{number}" for number in range(11))]
    rng = np.random.default_rng(4)
    gold = [" ".join(rng.choice(words, 6)) for _ in DIALOGUES]
    close = [text.replace("sail", "run") for text in gold]
    far = [" ".join(rng.choice(words[:4], 6)) for _ in DIALOGUES]
    for score in (lambda texts: bleu_of_rows(texts, gold), lambda texts: distinct_of_rows(texts, 2)):
        result = paired_bootstrap(score(close), score(far), DIALOGUES, samples=200)
        assert 0.0 < result.low < result.difference < result.high
        assert result.p_value < 0.01
        assert paired_bootstrap(score(far), score(far), DIALOGUES, samples=50).p_value == 1.0


@pytest.mark.parametrize("replace", [True, False])
def test_interval_of_distinct_is_centred_although_resampling_moves_it(replace: bool) -> None:
    texts, same = [f"w{number}" for number in range(200)], ["w"] * 200
    found = paired_bootstrap(
        distinct_of_rows(texts, 1), distinct_of_rows(same, 1), DIALOGUES, samples=300, replace=replace
    )
    assert found.difference == pytest.approx(99.5)
    assert 85.0 < found.low <= 99.5 <= found.high


def test_systems_alike_seldom_differ_in_distinct() -> None:
    """Two speakers of one vocabulary, whose dialogues have words of their own: a bootstrap tells them apart too often."""
    rng = np.random.default_rng(6)
    clusters = [f"{number:02}" for number in range(30) for _ in range(4)]
    alarms = {True: 0, False: 0}
    for _ in range(150):
        texts = []
        for _ in range(2):
            own = rng.zipf(1.3, size=(30, 4)) % 500  # each dialogue comes back to its own words
            draws = np.where(rng.random((30, 4, 8)) < 0.5, own[:, :, None], rng.zipf(1.3, size=(30, 4, 8)) % 3000)
            texts.append([" ".join(map(str, reply)) for reply in draws.reshape(-1, 8)])
        left, right = (distinct_of_rows(part, 1) for part in texts)
        for replace in alarms:
            found = paired_bootstrap(left, right, clusters, samples=60, replace=replace)
            alarms[replace] += found.p_value < 0.05
    assert alarms[False] <= 0.1 * 150 < alarms[True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clusters": ["one"] * 200}, "at least 2"),
        ({"clusters": []}, "at least 2"),
        ({"clusters": DIALOGUES[:10]}, "one value a reply"),
        ({"samples": 0}, "samples: 0"),
        ({"level": 1.0}, "level: 1.0"),
    ],
)
def test_impossible_requests_are_refused(values: np.ndarray, change: dict, message: str) -> None:
    arguments = {"clusters": DIALOGUES} | change
    with pytest.raises(UsageError, match=message):
        paired_bootstrap(values, values, **arguments)
