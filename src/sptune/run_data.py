"""The dialogues that a recipe trains on, chooses by and tests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sptune.data.load import load_dialogues, select
from sptune.errors import DataError

if TYPE_CHECKING:
    from sptune.config import Recipe
    from sptune.data.dialogue import Dialogue


@dataclass(frozen=True, slots=True)
class RunData:
    """The dialogues of a run."""

    train: list[Dialogue]
    validation: list[Dialogue]
    test: list[Dialogue]

    @property
    def note(self) -> str | None:
        """What to know where test dialogues are validation dialogues too, which may be meant; None where none is."""
        common = _shared(self.validation, self.test)
        if not common:
            return None
        return (
            f"evaluation.split: {common} of the {len(self.test)} test dialogues also choose checkpoints and learning rates "
            "(data.validation); figures are better than those of new dialogues"
        )


def load_data(recipe: Recipe) -> RunData:
    """The training, validation and test dialogues of a recipe.

    Raises:
        DataError: a file is missing or has errors (with `data.on_error=stop`), a range lies outside it, or the same dialogues are used for
            training and for validation or test. Names the key of the recipe.
    """
    d, e = recipe.data, recipe.evaluation

    def read(own: str | None, key: str, split: str | None, split_key: str) -> list[Dialogue]:
        path, key = (d.path, "data.path") if own is None else (own, key)
        try:
            found = load_dialogues(path, format=d.format, persona=d.persona, on_error=d.on_error)
        except DataError as error:
            raise DataError(f"{key}: {error}") from error
        return select(found, split, path, option=split_key)

    data = RunData(
        train=read(None, "data.path", d.train, "data.train"),
        validation=read(d.validation_path, "data.validation_path", d.validation, "data.validation")
        if recipe.validates
        else [],
        test=read(e.path, "evaluation.path", e.split, "evaluation.split")[: e.limit] if recipe.evaluates else [],
    )
    for what, part in (("data.validation", data.validation), ("evaluation.split", data.test)):
        if common := _shared(data.train, part):
            raise DataError(
                f"{what}: {common} of its dialogues are also trained on; choose ranges that do not meet (data.train)"
            )
    return data


def _shared(one: Sequence[Dialogue], other: Sequence[Dialogue]) -> int:
    return len(set(map(_words, one)) & set(map(_words, other)))


def _words(dialogue: Dialogue) -> tuple[object, ...]:
    """What is said in a dialogue, wherever it stands and whatever its id and candidates are."""
    return dialogue.persona, tuple((turn.user, turn.response) for turn in dialogue.turns)
