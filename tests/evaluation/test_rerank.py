"""Choosing among candidates, from kept figures alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sptune.errors import UsageError
from sptune.evaluation.rerank import (
    Candidate,
    RerankWeights,
    TurnCandidates,
    candidate_score,
    consensus,
    recalled,
    rerank,
)

NOTHING = RerankWeights(prior=0.0, consensus=0.0)


def candidate(
    text: str, *logprobs: float, tokens: int = 4, prior: float | tuple[float, ...] | None = -8.0, **more: float
) -> Candidate:
    priors = (prior,) * len(logprobs) if isinstance(prior, float) else prior
    values = {"fused_logprob": logprobs[0], "gated_logprob": logprobs[0], "consensus": 0.0, "persona_recall": 0.0}
    return Candidate(text, 0, 1.0, tokens, tokens, logprobs, prior_logprobs=priors, **{**values, **more})


def turn_of(*candidates: Candidate, prompt: int = 0, gate: tuple[float, ...] = (0.25, 0.75)) -> TurnCandidates:
    return TurnCandidates("a", 0, ("i sail .",), "hi", "hello", prompt, gate, 0.5, gate, candidates)


def test_every_part_of_the_score_by_hand():
    one = candidate("yes", -6.0, -3.0, consensus=0.5, persona_recall=0.25)
    weights = RerankWeights("top1", length_power=0.5, prior=0.25, consensus=2.0, persona=4.0)
    turn = turn_of(one, prompt=1)
    assert candidate_score(turn, one, weights) == pytest.approx((-3.0 + 0.25 * 8.0) / 4**0.5 + 2 * 0.5 + 4 * 0.25)
    assert rerank(turn, weights).score == candidate_score(turn, one, weights)


@pytest.mark.parametrize(
    ("likelihood", "prior"),
    [
        ("top1", -2.0),
        ("fused", math.log(0.5 * math.exp(-2) + 0.5 * math.exp(-6))),
        ("gated", math.log(0.25 * math.exp(-2) + 0.75 * math.exp(-6))),
        ("mixture", math.log(0.25 * math.exp(-2) + 0.75 * math.exp(-6))),
    ],
)
def test_the_prior_is_that_of_those_whose_likelihood_counts(likelihood: str, prior: float):
    weights = RerankWeights(likelihood, length_power=0.0, prior=1.0, consensus=0.0)
    one = candidate("yes", -3.0, -3.0, prior=(-2.0, -6.0))
    assert candidate_score(turn_of(one), one, weights) == pytest.approx(-3.0 - prior)
    bare = candidate("yes", -3.0, -3.0, prior=(-5.0,))
    assert candidate_score(turn_of(bare), bare, weights) == pytest.approx(2.0), "the bare model's, whoever speaks"


@pytest.mark.parametrize(("likelihood", "best"), [("top1", 0), ("fused", 1), ("gated", 2), ("mixture", 3)])
def test_the_likeliest_wins_without_other_weights(likelihood: str, best: int):
    """Of each likelihood another candidate is the best."""
    turn = turn_of(
        candidate("a", -1.0, -9.0, fused_logprob=-5.0, gated_logprob=-5.0),
        candidate("b", -9.0, -9.0, fused_logprob=-1.0, gated_logprob=-5.0),
        candidate("c", -9.0, -9.0, fused_logprob=-5.0, gated_logprob=-1.0),
        candidate("d", -9.0, -1.0, fused_logprob=-5.0, gated_logprob=-5.0),
    )
    choice = rerank(turn, replace(NOTHING, likelihood=likelihood, length_power=0.0))
    assert choice.index == best
    wanted = math.log(0.25 * math.exp(-9) + 0.75 * math.exp(-1)) if best == 3 else -1.0
    assert choice.score == pytest.approx(wanted)


def test_each_weight_moves_the_choice_its_own_way():
    plain = candidate("the likely one", -4.0, -4.0, prior=-4.0)
    special = candidate("unlikely without the context", -5.0, -5.0, prior=-20.0)
    agreed = candidate("like the others", -5.0, -5.0, prior=-4.0, consensus=0.9)
    personal = candidate("of the persona", -5.0, -5.0, prior=-4.0, persona_recall=0.9)
    long = candidate("long", -6.0, -6.0, prior=-4.0, tokens=20)
    turn = turn_of(plain, special, agreed, personal, long)
    short = replace(NOTHING, length_power=0.0)
    assert rerank(turn, short).index == 0
    assert rerank(turn, replace(short, prior=0.5)).index == 1
    assert rerank(turn, replace(short, consensus=5.0)).index == 2
    assert rerank(turn, replace(short, persona=5.0)).index == 3
    assert rerank(turn, replace(short, length_power=1.0)).index == 4


def test_the_first_of_equals_wins():
    assert (
        rerank(turn_of(candidate("a", -2.0), candidate("b", -1.0), candidate("c", -1.0), gate=(1.0,)), NOTHING).index
        == 1
    )


def test_a_mixture_is_finite_where_all_weight_is_on_an_impossible_prompt():
    one = candidate("a", -900.0, -1.0)
    assert math.isfinite(candidate_score(turn_of(one, gate=(1.0, 0.0)), one, replace(NOTHING, likelihood="mixture")))


def test_a_weight_without_its_figure_is_refused():
    turn = turn_of(candidate("a", -1.0, prior=None), gate=(1.0,))
    with pytest.raises(UsageError, match="prior: these candidates hold no log-probability without the context"):
        rerank(turn, RerankWeights(prior=0.1))
    assert rerank(turn, NOTHING).score == -0.25


@pytest.mark.parametrize(("name", "value"), [("prior", math.nan), ("persona", math.inf), ("likelihood", "best")])
def test_weights_are_checked(name: str, value: object):
    with pytest.raises(UsageError, match=f"{name}: '?{value}"):
        RerankWeights(**{name: value})


def test_agreement_with_the_others_does_not_count_oneself():
    texts = ["i sail boats", "i sail", "no", "i sail"]
    found = consensus(texts)
    assert found[0] == pytest.approx((0.8 + 0.8 + 0.0) / 3)  # F1 of 2 of 3 and 2 of 2 words
    assert found[1] == found[3] == pytest.approx((0.8 + 0.0 + 1.0) / 3)
    assert found[2] == 0.0
    assert consensus(["alone"]) == [0.0]
    agreed = consensus(["i sail boats", "i sail"], "rouge")
    assert agreed[0] == pytest.approx((4 / 5 + 2 / 3) / 2)  # 2 of 3 and 2 of 2 words, 1 of 2 and 1 of 1 pairs
    for similarity in ("rouge", "bleu", "chrf"):
        other = consensus(texts, similarity)
        assert 0 <= other[2] < other[1] == other[3] < 1


def test_recall_of_the_persona():
    assert recalled("a red boat", ("my boat is red .", "i hate rain .")) == pytest.approx(2 / 4)  # boat red hate rain
    assert recalled("", ("my boat is red .",)) == recalled("a boat", ()) == 0.0
