"""Which turns are evaluated, and which prompt speaks at each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sptune.data.dialogue import Dialogue, Turn
from sptune.errors import DataError, UsageError
from sptune.evaluation.turns import by_sequence, choose_prompts
from sptune.model.spt import SPTModel

Dialogues = tuple[Dialogue, ...]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., SPTModel]) -> SPTModel:
    return tiny_model()


def test_every_turn_with_a_response_in_order(model: SPTModel, dialogues: Dialogues) -> None:
    silent = replace(dialogues[0], turns=(*dialogues[0].turns, Turn("and now ?")))
    turns = choose_prompts(model, [silent, *dialogues[1:]])
    wanted = [(talk.id, n) for talk in dialogues for n in range(len(talk.turns))]
    assert [(turn.dialogue.id, turn.span.turn) for turn in turns] == wanted
    assert all(turn.turn.response for turn in turns)


def test_the_choice_is_that_of_the_model_on_the_context_alone(model: SPTModel, dialogues: Dialogues) -> None:
    for turn in choose_prompts(model, dialogues):
        context = turn.dialogue.context(turn.span.turn)
        assert turn.context_ids == model.encoder.encode_context(context).input_ids
        scores = model.scores([context])[0]
        assert turn.selection.scores == pytest.approx(scores.tolist(), abs=1e-6)
        assert turn.selection.prompt == int(scores.argmax())


def test_sampling_depends_on_the_seed_and_not_on_the_other_turns(model: SPTModel, dialogues: Dialogues) -> None:
    def drawn(talks: Dialogues, seed: int) -> dict[tuple[str, int], int]:
        turns = choose_prompts(model, talks, rule="sample", seed=seed)
        return {(turn.dialogue.id, turn.span.turn): turn.selection.prompt for turn in turns}

    whole = drawn(dialogues, 1)
    assert len(set(whole.values())) > 1
    assert drawn(dialogues[::-1], 1) == whole
    assert drawn(dialogues[3:], 1).items() <= whole.items()
    assert any(drawn(dialogues, seed) != whole for seed in range(2, 6))


def test_a_forced_prompt_speaks_everywhere(model: SPTModel, dialogues: Dialogues) -> None:
    assert {turn.selection.prompt for turn in choose_prompts(model, dialogues, prompt=2)} == {2}
    with pytest.raises(UsageError, match="no prompt 3"):
        choose_prompts(model, dialogues, prompt=3)


def test_nothing_to_evaluate_is_refused(model: SPTModel) -> None:
    with pytest.raises(DataError, match="no turn has a response"):
        choose_prompts(model, [Dialogue("a", (), (Turn("hello"),))])


def test_turns_are_grouped_by_their_sequence(tiny_model: Callable[..., SPTModel], dialogues: Dialogues) -> None:
    turns = choose_prompts(
        tiny_model(max_length=90, reserve=10), dialogues
    )  # the long dialogue needs several sequences
    groups = list(by_sequence(turns))
    assert [turn for group in groups for turn in group] == turns
    assert len(groups) > len(dialogues)
    assert all(len({id(turn.sequence) for turn in group}) == 1 for group in groups)
    assert list(by_sequence([])) == []
