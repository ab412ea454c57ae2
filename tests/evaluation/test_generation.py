"""Generated replies: batches, prompts, Ctrl-C, and metrics from the replies alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sptune.data.dialogue import Dialogue
from sptune.errors import DataError, UsageError
from sptune.evaluation.generation import Generation, GenerationInterrupted, chosen_reply, generate_replies, measure
from sptune.evaluation.records import read_records, write_records
from sptune.evaluation.rerank import Candidate, RerankWeights, TurnCandidates
from sptune.evaluation.turns import choose_prompts
from sptune.model.generate import Decoding
from sptune.model.mixture import Mixture
from sptune.model.spt import SPTModel

Dialogues = tuple[Dialogue, ...]
SHORT = Decoding(max_new_tokens=6)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., SPTModel]) -> SPTModel:
    return tiny_model()


@pytest.mark.parametrize("decoding", [SHORT, Decoding(max_new_tokens=5, num_beams=3)])
def test_batches_equal_one_by_one(model: SPTModel, dialogues: Dialogues, decoding: Decoding) -> None:
    turns = choose_prompts(model, dialogues, rule="sample")
    alone = [generate_replies(model, [turn], decoding=decoding)[0] for turn in turns]
    for budget in (1, 1000, 10**6):
        assert generate_replies(model, turns, decoding=decoding, token_budget=budget) == alone
    assert generate_replies(model, turns[::-1], decoding=decoding) == alone[::-1]
    assert len({one.prediction for one in alone}) > 3


def test_replies_are_those_of_the_model_on_the_gold_history(model: SPTModel, dialogues: Dialogues) -> None:
    turns = choose_prompts(model, dialogues, prompt=1)
    contexts = [turn.dialogue.context(turn.span.turn) for turn in turns]
    wanted = model.generate(contexts, decoding=SHORT, prompt=1)
    for turn, reply, got in zip(turns, wanted, generate_replies(model, turns, decoding=SHORT), strict=True):
        assert (got.prediction, got.prompt, got.tokens) == (reply.text, 1, len(reply.tokens))
        assert got.scores == pytest.approx(reply.selection.scores, abs=1e-6)
        assert (got.persona, got.user, got.reference) == (turn.dialogue.persona, turn.turn.user, turn.turn.response)
        assert (got.dialogue, got.turn) == (turn.dialogue.id, turn.span.turn)


@pytest.mark.parametrize("kind", ["top1", "fused", "gated"])
def test_a_sampled_reply_depends_on_the_seed_and_its_turn_alone(
    model: SPTModel, dialogues: Dialogues, kind: Mixture
) -> None:
    turns = choose_prompts(model, [dialogues[0], replace(dialogues[0], id="again")])
    decoding = Decoding(max_new_tokens=8, temperature=1.5, seed=4, kind=kind)
    first = generate_replies(model, turns, decoding=decoding)
    assert generate_replies(model, turns, decoding=decoding, token_budget=1) == first
    assert generate_replies(model, turns[2:3], decoding=decoding) == first[2:3]
    assert first[0].prediction != first[3].prediction  # the same context in another dialogue
    assert generate_replies(model, turns, decoding=replace(decoding, seed=5)) != first


def test_prompts_speak_together(model: SPTModel, dialogues: Dialogues) -> None:
    turns = choose_prompts(model, dialogues)
    for kind in ("fused", "gated"):
        decoding = replace(SHORT, kind=kind)
        contexts = [turn.dialogue.context(turn.span.turn) for turn in turns]
        wanted = [reply.text for reply in model.generate(contexts, decoding=decoding)]
        found = generate_replies(model, turns, decoding=decoding, token_budget=500)
        assert [one.prediction for one in found] == wanted
        assert [one.prompt for one in found] == [turn.selection.prompt for turn in turns]
        assert wanted != [one.prediction for one in generate_replies(model, turns, decoding=SHORT)]


def test_the_speaker_does_not_repeat_the_data(model: SPTModel, dialogues: Dialogues) -> None:
    """Earlier responses of the data are what a speaker has said; here nearly every token of the vocabulary."""
    first, *others = dialogues[0].turns
    everything = replace(first, response=model.decode(range(4, len(model.encoder.tokenizer))))
    turns = choose_prompts(model, [replace(dialogues[0], turns=(everything, *others))])
    decoding = replace(SHORT, no_repeat_history_ngram=1)
    free, held = (generate_replies(model, turns, decoding=one) for one in (SHORT, decoding))
    assert [old == new for old, new in zip(free, held, strict=True)] == [True, False, False]
    wanted = model.generate([turn.dialogue.context(turn.span.turn) for turn in turns], decoding=decoding)
    assert [one.prediction for one in held] == [reply.text for reply in wanted]


def test_the_chosen_candidate_is_named() -> None:
    spoken = [
        Candidate("no .", prompt, 1.0, 3, 3, (-3.0, -9.0), -4.0, -4.0, (-2.0, -2.0), 0.0, recall)
        for prompt, recall in ((1, 0.5), (None, 0.9))
    ]
    turn = TurnCandidates("a", 2, ("i sail .",), "hi", "yes", 0, (0.5, 0.1), 0.4, (0.6, 0.4), tuple(spoken))
    found = chosen_reply(turn, RerankWeights("top1", prior=0.0, consensus=0.0, persona=1.0))
    assert (found.candidate, found.score, found.prompt, found.tokens) == (1, pytest.approx(-0.1), 0, 3)
    first = chosen_reply(turn, RerankWeights("top1", prior=0.0, consensus=0.0))
    assert (first.candidate, first.score, first.prompt, first.prediction) == (0, -1.0, 1, "no .")
    assert (first.dialogue, first.turn, first.persona, first.reference) == ("a", 2, ("i sail .",), "yes")


def test_ctrl_c_keeps_what_is_done(model: SPTModel, dialogues: Dialogues) -> None:
    turns = choose_prompts(model, dialogues)
    whole = generate_replies(model, turns, decoding=SHORT)

    def press(part: str, done: int, total: int) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(GenerationInterrupted, match=r"interrupted after \d+ of 13 replies") as stop:
        generate_replies(model, turns, decoding=SHORT, token_budget=200, progress=press)
    done = stop.value.done
    assert 5 <= len(done) < len(turns)
    assert isinstance(stop.value, KeyboardInterrupt)
    assert list(done) == [one for one in whole if one in done]  # equal replies, in the order of the data


def test_a_reply_that_does_not_fit_is_refused(model: SPTModel, dialogues: Dialogues) -> None:
    with pytest.raises(UsageError, match=r"max_new_tokens.*window is 1024"):
        generate_replies(model, choose_prompts(model, dialogues), decoding=Decoding(max_new_tokens=1000))


def test_empty_replies_are_counted() -> None:
    said = Generation("a", 0, ("i sail .",), "hi", "i sail .", "i sail .", 0, (1.0,), 0.0, 4)
    report = measure([said, replace(said, turn=1, prediction="")], profile="paper")
    assert (report.replies, report.empty_replies, report.values["empty"]) == (2, 1, 50.0)
    assert report.values["f1"] == pytest.approx(50.0)


NEW = ("candidate", "score", "bertscore", "unfinished")


def test_a_reply_that_a_stop_ends_is_not_unfinished(
    model: SPTModel, dialogues: Dialogues, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = choose_prompts(model, dialogues)
    assert model.stops == ()
    free = generate_replies(model, turns, decoding=SHORT)
    assert [one.unfinished for one in free] == [one.tokens == SHORT.max_new_tokens for one in free]
    monkeypatch.setattr(model, "stops", (free[0].prediction[2],))
    stopped = generate_replies(model, turns, decoding=SHORT)
    assert (stopped[0].tokens, stopped[0].unfinished) == (SHORT.max_new_tokens, False)
    assert stopped[0].prediction == free[0].prediction[:2].strip()


def test_replies_survive_the_file(tmp_path: Path) -> None:
    odd = 'tab\there, \u2028 separator, \x85 next line, \u00fc, \U0001f426, "quotes"\nand a break'
    said = Generation("a", 0, (odd, ""), odd, odd, odd, 1, (0.1, 1 / 3), 0.1, 4)
    path = tmp_path / "new" / "generations.jsonl"
    write_records(path, [said, replace(said, prediction="")])
    assert read_records(path, Generation) == [said, replace(said, prediction="")]
    older = {name: value for name, value in asdict(said).items() if name not in NEW}
    path.write_text(json.dumps(older), encoding="utf-8")  # as it was before there were candidates, and scores of each
    assert read_records(path, Generation) == [said]
    write_records(path, [said, said])
    assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'{"dialogue": "a"', r":1: .*JSON"),
        (b'{"dialogue": "a"}', r":1: turn: Field required"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "generations.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"generations\.jsonl.*{message}.*sptune evaluate --output"):
        read_records(path, Generation)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    said = Generation("a", 0, (), "hi", "no", "yes", 0, (1.0,), 0.0, 1)
    path = tmp_path / "generations.jsonl"
    write_records(path, [said, said])
    path.write_text(path.read_text(encoding="utf-8").replace('"turn": 0', '"turn": "first"', 2), encoding="utf-8")
    with pytest.raises(DataError, match=r"generations\.jsonl:1: turn: .*integer"):
        read_records(path, Generation)
    with pytest.raises(DataError, match="cannot be read"):
        read_records(tmp_path / "missing.jsonl", Generation)
