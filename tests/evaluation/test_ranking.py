"""Ranks of gold responses: against scores taken one by one, with ties, copies and faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from sptune.data.dialogue import Dialogue, Turn
from sptune.errors import DataError, ModelError
from sptune.evaluation.candidate_replies import Reranking, Sampling
from sptune.evaluation.ranking import TurnRank, rank_turns, ranking
from sptune.evaluation.rerank import RerankWeights, prior_logprob, recalled
from sptune.evaluation.scoring import score_turns
from sptune.evaluation.turns import ChosenTurn, choose_prompts
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.mixture import mixture_weights
from sptune.model.spt import SPTModel
from tiny import tiny_llama, tiny_spt

Dialogues = tuple[Dialogue, ...]

ANSWERS = ("no .", "i would rather not say , friend .", "the sea is cold today", "why do you ask ?", "yes !")


def with_candidates(dialogue: Dialogue, choose: Callable[[int, str], Sequence[str]] | None = None) -> Dialogue:
    """`dialogue` with candidates at every turn: some answers and, in their midst, the gold response."""
    choose = choose or (lambda number, gold: (*ANSWERS[:2], gold, *ANSWERS[2:]))
    turns = [replace(turn, candidates=tuple(choose(n, turn.response or ""))) for n, turn in enumerate(dialogue.turns)]
    return replace(dialogue, turns=tuple(turns))


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., SPTModel]) -> SPTModel:
    return tiny_model()


def means_one_by_one(model: SPTModel, turn: ChosenTurn, texts: Sequence[str]) -> list[float]:
    """Mean log-probability of each text as the response of `turn`, each scored as a dialogue of its own."""
    means = []
    for text in texts:
        turns = turn.dialogue.turns
        answered = replace(turns[turn.span.turn], response=text)
        dialogue = replace(turn.dialogue, turns=(*turns[: turn.span.turn], answered))
        score = score_turns(model, choose_prompts(model, [dialogue]))[-1]
        means.append(score.logprobs[turn.selection.prompt] / score.tokens)
    return means


def test_ranks_are_those_of_scoring_every_candidate_alone(model: SPTModel, dialogues: Dialogues) -> None:
    turns = choose_prompts(model, [with_candidates(talk) for talk in dialogues], rule="sample", seed=3)
    prompts = [{turn.selection.prompt for turn in turns if turn.dialogue.id == talk.id} for talk in dialogues]
    assert max(map(len, prompts)) > 1  # turns of one sequence under different prompts
    ranks = rank_turns(model, turns)
    assert [(one.dialogue, one.turn) for one in ranks] == [(turn.dialogue.id, turn.span.turn) for turn in turns]
    for turn, one in zip(turns, ranks, strict=True):
        gold, *others = means_one_by_one(model, turn, [turn.turn.response or "", *ANSWERS])
        assert (one.rank, one.candidates) == (1 + sum(other >= gold for other in others), 6)
    assert len({one.rank for one in ranks}) > 1


@pytest.mark.parametrize(
    "weights",
    [
        RerankWeights(likelihood="top1", prior=0.75, consensus=0.0),
        RerankWeights(likelihood="top1", prior=1.0, length_power=0.5, consensus=40.0, persona=3.0),
        RerankWeights(likelihood="mixture", prior=0.75, consensus=0.0),
    ],
    ids=["information", "persona", "mixture"],
)
def test_reranking_weighs_candidates_as_it_does_drawn_ones_but_for_consensus(
    model: SPTModel, dialogues: Dialogues, weights: RerankWeights
) -> None:
    recalling = replace(dialogues[0], persona=("i keep a cold sea .", *dialogues[0].persona))
    turns = choose_prompts(model, [with_candidates(talk) for talk in (recalling, *dialogues[1:])])

    def score(turn: ChosenTurn, text: str) -> float:
        k, asked = turn.selection.prompt, turn.dialogue.turns
        answered = replace(asked[turn.span.turn], response=text)
        talk = replace(turn.dialogue, turns=(*asked[: turn.span.turn], answered))
        given = score_turns(model, choose_prompts(model, [talk]))[-1]
        (alone,) = score_turns(model, choose_prompts(model, [Dialogue("empty", (), (Turn("", text),))]))
        speakers = mixture_weights(turn.selection, kind=weights.likelihood, temperature=0.1)
        both = [prior_logprob(one.logprobs, speakers) or 0.0 for one in (given, alone)]  # summed over the tokens
        assert weights.likelihood != "top1" or both == [given.logprobs[k], alone.logprobs[k]]
        information = both[0] - weights.prior * both[1]
        return information / given.tokens**weights.length_power + weights.persona * recalled(text, talk.persona)

    ranks = rank_turns(model, turns, reranking=Reranking(weights=weights))
    for turn, one in zip(turns, ranks, strict=True):
        gold, *others = (score(turn, text) for text in [turn.turn.response or "", *ANSWERS])
        assert one.rank == 1 + sum(other >= gold for other in others)
    assert ranks != rank_turns(model, turns)


def test_reranking_without_a_prior_measures_none(model: SPTModel, dialogues: Dialogues) -> None:
    turns = choose_prompts(model, [with_candidates(dialogues[0])])
    plain = Reranking(Sampling(prior="none"), RerankWeights(likelihood="fused", prior=0.0))
    assert rank_turns(model, turns, reranking=plain) == rank_turns(model, turns, kind="fused")


def test_a_mixture_ranks_by_its_own_likelihood(model: SPTModel, dialogues: Dialogues) -> None:
    turns = choose_prompts(model, [with_candidates(talk) for talk in dialogues[:2]])

    def likelihoods(turn: ChosenTurn, text: str) -> dict[str, float]:
        asked = turn.dialogue.turns
        answered = replace(asked[turn.span.turn], response=text)
        talk = replace(turn.dialogue, turns=(*asked[: turn.span.turn], answered))
        one = score_turns(model, choose_prompts(model, [talk]), gate_temperature=0.02)[-1]
        found = {"fused": one.fused_logprob, "gated": one.gated_logprob, "mixture": one.mixture_logprob}
        return {kind: (value or 0.0) / one.tokens for kind, value in found.items()}

    by_kind = {
        kind: rank_turns(model, turns, kind=kind, gate_temperature=0.02) for kind in ("fused", "gated", "mixture")
    }
    for n, turn in enumerate(turns):
        gold, *others = (likelihoods(turn, text) for text in [turn.turn.response or "", *ANSWERS])
        for kind, ranks in by_kind.items():
            assert ranks[n].rank == 1 + sum(other[kind] >= gold[kind] for other in others)
    assert rank_turns(model, turns, kind="gated", gate_temperature=1e-5) == rank_turns(model, turns)


def test_the_order_of_candidates_and_of_dialogues_does_not_matter(model: SPTModel, dialogues: Dialogues) -> None:
    talks = [with_candidates(talk) for talk in dialogues]
    mixed = [with_candidates(talk, lambda n, gold: (gold, *ANSWERS[::-1])) for talk in dialogues[::-1]]
    wanted = {(one.dialogue, one.turn): one.rank for one in rank_turns(model, choose_prompts(model, talks))}
    assert {(one.dialogue, one.turn): one.rank for one in rank_turns(model, choose_prompts(model, mixed))} == wanted


def test_what_the_model_likes_best_is_always_a_hit(model: SPTModel, dialogues: Dialogues) -> None:
    first = Dialogue("a", dialogues[0].persona, (Turn("hello ?", ANSWERS[0], ANSWERS),))
    (turn,) = choose_prompts(model, [first])
    means = means_one_by_one(model, turn, ANSWERS)
    for rank, best in enumerate(sorted(range(len(ANSWERS)), key=lambda n: -means[n]), start=1):
        rigged = replace(first, turns=(replace(first.turns[0], response=ANSWERS[best]),))
        assert rank_turns(model, choose_prompts(model, [rigged])) == [TurnRank("a", 0, rank, len(ANSWERS))]


@pytest.fixture(scope="module")
def indifferent(tiny_base: LoadedBase) -> SPTModel:
    """A model to which every token is as likely as every other."""
    llama = tiny_llama(len(tiny_base.tokenizer))
    torch.nn.init.zeros_(llama.lm_head.weight)
    return tiny_spt(LoadedBase(Backbone(llama, base="indifferent"), tiny_base.tokenizer))


@pytest.mark.parametrize("way", ["packed", "repeated", "separate"])
def test_ties_count_as_wrong(indifferent: SPTModel, dialogues: Dialogues, way) -> None:
    ranks = rank_turns(indifferent, choose_prompts(indifferent, [with_candidates(dialogues[0])]), way=way)
    assert [one.rank for one in ranks] == [6, 6, 6]
    figures = ranking(ranks, turns=3)
    assert figures is not None
    assert (figures.hits_at_1, figures.hits_at_5, figures.hits_at_20) == (0, 0, 100)


def test_copies_of_the_gold_response_are_the_gold_response(model: SPTModel, dialogues: Dialogues) -> None:
    plain = rank_turns(model, choose_prompts(model, [with_candidates(dialogues[0])]))
    copied = with_candidates(dialogues[0], lambda n, gold: (gold, *ANSWERS, f" {gold} ", gold, ANSWERS[0]))
    assert rank_turns(model, choose_prompts(model, [copied])) == plain


def test_turns_without_two_candidates_are_left_out(model: SPTModel, dialogues: Dialogues) -> None:
    sparse = with_candidates(dialogues[3], lambda n, gold: [(), (gold,), (gold, "no .")][n % 3])
    ranks = rank_turns(model, choose_prompts(model, [sparse, dialogues[0]]))
    assert [(one.dialogue, one.turn, one.candidates) for one in ranks] == [("archivist", 2, 2), ("archivist", 5, 2)]
    figures = ranking(ranks, turns=10)
    assert figures is not None
    assert (figures.turns, figures.turns_without_candidates, figures.mean_candidates) == (2, 8, 2)


def test_without_candidates_there_is_no_figure(model: SPTModel, dialogues: Dialogues) -> None:
    assert rank_turns(model, choose_prompts(model, dialogues)) == []
    assert ranking([], turns=13) is None


def test_figures_by_hand() -> None:
    ranks = [TurnRank("a", n, rank, 25) for n, rank in enumerate([1, 5, 6, 20, 21])]
    figures = ranking(ranks, turns=5)
    assert figures is not None
    assert (figures.hits_at_1, figures.hits_at_5, figures.hits_at_20) == (20, 40, 80)
    assert figures.mrr == pytest.approx((1 + 1 / 5 + 1 / 6 + 1 / 20 + 1 / 21) / 5)


def test_candidates_without_the_gold_response_are_refused(model: SPTModel, dialogues: Dialogues) -> None:
    talk = with_candidates(dialogues[0], lambda n, gold: ANSWERS)
    with pytest.raises(DataError, match=r"'sailor', turn 0 \(line 4\).*i mend nets"):
        rank_turns(model, choose_prompts(model, [talk]))


def test_a_candidate_beyond_the_window_is_refused_before_anything_runs(tiny_base: LoadedBase) -> None:
    base = LoadedBase(Backbone(tiny_llama(len(tiny_base.tokenizer), window=64), base="short"), tiny_base.tokenizer)
    model = tiny_spt(base, max_length=60, reserve=10)
    talk = Dialogue("a", (), (Turn("hi", "hi", ("hi", "zq" * 60)),))
    calls: list[int] = []
    with pytest.raises(DataError, match=r"'a', turn 0.*window is 64"):
        rank_turns(model, choose_prompts(model, [talk]), progress=lambda *_: calls.append(1))
    assert not calls


def test_numbers_that_are_not_numbers_are_refused(tiny_model: Callable[..., SPTModel], dialogues: Dialogues) -> None:
    model = tiny_model()
    turns = choose_prompts(model, [with_candidates(dialogues[0])])
    with torch.no_grad():
        model.prompts.embeddings.fill_(torch.nan)
    with pytest.raises(ModelError, match="not a number"):
        rank_turns(model, turns)
