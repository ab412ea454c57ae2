"""Candidates: where they come from, what is measured of them, and that batches do not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from model.architectures import make_architecture
from sptune.data.dialogue import Dialogue, Turn
from sptune.errors import UsageError
from sptune.evaluation.candidate_replies import Reranking, Sampling, make_candidates
from sptune.evaluation.generation import generate_replies
from sptune.evaluation.records import read_records, write_records
from sptune.evaluation.rerank import Candidate, RerankWeights, TurnCandidates
from sptune.evaluation.scoring import TurnScore, score_turns
from sptune.evaluation.turns import ChosenTurn, choose_prompts
from sptune.model.backbone import Backbone
from sptune.model.generate import Decoding, rules_of
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel
from tiny import DIALOGUES, tiny_spt

SHORT = Decoding(max_new_tokens=6, gate_temperature=0.05)
FEW = Sampling(candidates=5, greedy=2, temperature=1.5)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., SPTModel]) -> SPTModel:
    return tiny_model()


@pytest.fixture(scope="module")
def turns(model: SPTModel) -> list[ChosenTurn]:
    return choose_prompts(model, DIALOGUES[:2], rule="sample", seed=1)


def made(
    model: SPTModel, turns: Sequence[ChosenTurn], sampling: Sampling = FEW, decoding: Decoding = SHORT, **options: int
) -> list[TurnCandidates]:
    rules = rules_of(model, decoding)
    batches = make_candidates(
        model, turns, sampling=sampling, rules=rules, gate_temperature=decoding.gate_temperature, **options
    )
    return [one for batch in batches for one in batch]


def scored(model: SPTModel, turn: ChosenTurn, text: str) -> TurnScore:
    """`text` as the gold response of `turn`, teacher-forced."""
    asked = turn.dialogue.turns
    answered = replace(asked[turn.span.turn], response=text)
    dialogue = replace(turn.dialogue, turns=(*asked[: turn.span.turn], answered))
    return score_turns(model, choose_prompts(model, [dialogue]), gate_temperature=SHORT.gate_temperature)[-1]


def check_measures(model: SPTModel, turns: Sequence[ChosenTurn], found: Sequence[TurnCandidates]) -> int:
    checked = 0
    for turn, one in zip(turns, found, strict=True):
        for candidate in filter(lambda each: each.text, one.candidates):
            wanted = scored(model, turn, candidate.text)
            assert candidate.tokens == wanted.tokens
            assert candidate.logprobs == pytest.approx(wanted.logprobs, abs=1e-3)
            assert candidate.fused_logprob == pytest.approx(wanted.fused_logprob, abs=1e-3)
            assert candidate.gated_logprob == pytest.approx(wanted.gated_logprob, abs=1e-3)
            checked += 1
    return checked


def test_figures_are_the_teacher_forced_ones(model: SPTModel, turns: list[ChosenTurn]) -> None:
    found = made(model, turns)
    assert check_measures(model, turns, found) > 15
    for turn, one in zip(turns, found, strict=True):
        assert (one.dialogue, one.turn) == (turn.dialogue.id, turn.span.turn)
        assert (one.prompt, one.scores) == (turn.selection.prompt, turn.selection.scores)
        assert (one.user, one.reference) == (turn.turn.user, turn.turn.response)
        assert len(one.candidates) == 5
        assert sum(one.gate) == pytest.approx(1)
    texts = [{candidate.text for candidate in one.candidates} for one in found]
    assert max(map(len, texts)) > 3


@pytest.mark.parametrize("name", ["bloom", "mistral"])
def test_models_that_share_no_context_make_candidates_too(name: str, tiny_tokenizer) -> None:
    base = LoadedBase(Backbone(make_architecture(name, len(tiny_tokenizer)), base=name), tiny_tokenizer)
    other = tiny_spt(base)
    turns = choose_prompts(other, DIALOGUES[:1])
    assert check_measures(other, turns, made(other, turns, replace(FEW, source="gated"))) > 5


def test_the_prior_is_the_likelihood_before_an_empty_context(
    model: SPTModel, turns: list[ChosenTurn], tiny_model: Callable[..., SPTModel]
) -> None:
    bare = tiny_model(count=1, length=0)
    bare.encoder.prompt_length = model.prompts.length
    for prior, speaking in (("prompt", model), ("bare", bare)):
        for one in made(model, turns[:2], replace(FEW, prior=prior)):
            for candidate in filter(lambda each: each.text, one.candidates):
                alone = Dialogue("empty", (), (Turn("", candidate.text),))
                (wanted,) = score_turns(speaking, choose_prompts(speaking, [alone]))
                assert candidate.prior_logprobs == pytest.approx(wanted.logprobs, abs=1e-3)
                assert len(candidate.prior_logprobs) == (model.prompts.count if prior == "prompt" else 1)
    without = made(model, turns[:1], replace(FEW, prior="none"))[0]
    assert {candidate.prior_logprobs for candidate in without.candidates} == {None}


@pytest.mark.parametrize("source", ["top1", "each", "drawn", "fused", "gated"])
def test_candidates_do_not_depend_on_the_batches(model: SPTModel, turns: list[ChosenTurn], source: str) -> None:
    sampling = replace(FEW, source=source)
    together = made(model, turns, sampling)
    alone = [made(model, [turn], sampling, token_budget=1)[0] for turn in turns]
    for one, other in zip(together, alone, strict=True):
        assert [each.text for each in one.candidates] == [each.text for each in other.candidates]
        for each, single in zip(one.candidates, other.candidates, strict=True):
            assert each.logprobs == pytest.approx(single.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("source", "kind"), [("top1", "top1"), ("fused", "fused"), ("gated", "gated"), ("each", "top1"), ("drawn", "top1")]
)
def test_the_first_candidate_is_the_greedy_reply(model: SPTModel, source: str, kind: str) -> None:
    turns = choose_prompts(model, DIALOGUES[:2])
    replies = generate_replies(model, turns, decoding=replace(SHORT, kind=kind))
    firsts = [one.candidates[0] for one in made(model, turns, replace(FEW, source=source))]
    assert [first.text for first in firsts] == [reply.prediction for reply in replies]
    assert [first.generated for first in firsts] == [reply.tokens for reply in replies]
    assert {first.temperature for first in firsts} == {0.0}


def prompts(one: TurnCandidates) -> list[int | None]:
    return [candidate.prompt for candidate in one.candidates]


def test_where_candidates_come_from(model: SPTModel, turns: list[ChosenTurn]) -> None:
    turn = next(turn for turn in turns if turn.selection.scores[turn.selection.prompt] < max(turn.selection.scores))
    by_score = sorted(range(3), key=lambda k: -turn.selection.scores[k])
    chosen = turn.selection.prompt

    def drawn(source: str, greedy: int, candidates: int = 6) -> list[int | None]:
        return prompts(made(model, [turn], Sampling(candidates, greedy, source))[0])

    assert drawn("top1", 1) == [chosen] * 6
    assert drawn("top1", 2) == [chosen, next(k for k in by_score if k != chosen)] + [chosen] * 4
    assert drawn("each", 2) == [*by_score[:2], *by_score, by_score[0]]
    assert drawn("fused", 2) == [None, by_score[0]] + [None] * 4
    assert drawn("gated", 9) == [None, *by_score, None, None]
    assert drawn("each", 9, 2) == by_score[:2]
    assert set(by_score[:2]) <= set(drawn("drawn", 0, 40)) <= set(by_score)


def test_a_prompt_is_drawn_from_the_gate(model: SPTModel, turns: list[ChosenTurn]) -> None:
    one = made(model, turns[:1], Sampling(200, 0, "drawn"), replace(SHORT, max_new_tokens=1))[0]
    found = prompts(one)
    assert [found.count(k) / 200 for k in range(3)] == pytest.approx(one.gate, abs=0.12)
    assert max(one.gate) - min(one.gate) > 0.05


def test_the_seed_decides_the_samples_and_nothing_else(model: SPTModel, turns: list[ChosenTurn]) -> None:
    first, again, other = (made(model, turns, replace(FEW, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert [one.candidates[:2] for one in first] != [one.candidates[2:4] for one in first]
    texts = [[[each.text for each in one.candidates] for one in found] for found in (first, other)]
    assert [one[:2] for one in texts[0]] == [one[:2] for one in texts[1]]  # greedy
    assert texts[0] != texts[1]
    copy = replace(DIALOGUES[0], id="again")
    twin = made(model, choose_prompts(model, [DIALOGUES[0], copy]))
    assert [each.text for each in twin[0].candidates] != [each.text for each in twin[3].candidates]


def test_candidates_survive_the_file(model: SPTModel, turns: list[ChosenTurn], tmp_path: Path) -> None:
    found = made(model, turns[:2])
    write_records(tmp_path / "candidates.jsonl", found)
    assert read_records(tmp_path / "candidates.jsonl", TurnCandidates) == found
    assert isinstance(found[0].candidates[0], Candidate)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("candidates", 0),
        ("greedy", -1),
        ("source", "all"),
        ("temperature", 0.0),
        ("top_p", 0.0),
        ("prior", "chosen"),
        ("similarity", "meteor"),
    ],
)
def test_what_cannot_be_drawn_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{name}: {value!r} is out of range"):
        Sampling(**{name: value})


def test_a_prior_with_a_weight_must_be_measured() -> None:
    with pytest.raises(UsageError, match="prior: none was asked for, but it has a weight"):
        Reranking(Sampling(prior="none"))
    assert Reranking(Sampling(prior="none"), RerankWeights(prior=0.0)).weights.prior == 0.0
