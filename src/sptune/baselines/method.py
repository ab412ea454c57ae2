"""The protocol of every compared method: train it on dialogues, keep it in a folder, load it as a model that `evaluate` measures."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sptune.config import Recipe, dump_recipe, load_recipe
from sptune.errors import AdapterError, StorageError, UsageError
from sptune.files import write_json, write_text

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from sptune.config.compare import MethodSettings
    from sptune.data.dialogue import Dialogue
    from sptune.model.load import LoadedBase
    from sptune.model.spt import SPTModel
    from sptune.training.progress import ProgressBar
    from sptune.training.trainer import SPTTrainer

METHOD_NAME = "method.json"  # written last: where it stands, the method is fitted
RECIPE_NAME = "recipe.yaml"
CHECKPOINTS = "checkpoints"
FIRST = "first"  # in the folder of a method that trains twice: what is trained before the prompts


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a method may learn from.

    Attributes:
        train: dialogues to learn from, or to show as examples.
        validation: dialogues that choose the best checkpoint; may be empty.
    """

    train: Sequence[Dialogue]
    validation: Sequence[Dialogue] = ()


@dataclass(frozen=True, slots=True)
class Fit:
    """One fit of a method.

    Attributes:
        data: what to learn from.
        folder: where everything goes that `load` needs.
        recipe: the method's recipe, with the fit's seed, folder and learning rate (`training.prompt_lr`) in it.
        learning_rate: as it was given, or None.
        progress: shows the training, or None.
        resume: go on with what `folder` holds.
    """

    data: TrainingData
    folder: Path
    recipe: Recipe
    learning_rate: float | None = None
    progress: ProgressBar | None = None
    resume: bool = False


class Method(Protocol):
    """A compared method."""

    @property
    def trainable_parameters(self) -> int:
        """How many numbers `fit` trains; known after `fit` or `load`."""

    def fit(
        self,
        data: TrainingData,
        *,
        folder: Path,
        seed: int,
        learning_rate: float | None = None,
        progress: ProgressBar | None = None,
        resume: bool = False,
    ) -> None:
        """Train, and write everything that `load` needs into `folder`."""

    def load(self, folder: Path) -> SPTModel:
        """The model that `fit` left in `folder`."""


class Build(Protocol):
    """The makers that `sptune.build` has; it stands above this layer, so the module itself is handed in."""

    def make_model(self, recipe: Recipe, *, base: LoadedBase | None = None) -> SPTModel:
        """The untrained model of a recipe."""

    def make_bare_model(self, recipe: Recipe, *, base: LoadedBase) -> SPTModel:
        """The base model alone, with the recipe's template."""

    def make_trainer(
        self, recipe: Recipe, model: SPTModel, data: Any, *, callbacks: Sequence[TrainerCallback] = ()
    ) -> SPTTrainer:
        """The trainer of a recipe; `data` has `train` and `validation`."""


class FittedMethod(ABC):
    """What all methods share: the folder, and the record that says a fit in it is complete.

    Args:
        settings: the method's own settings.
        recipe: model, template, training budget and, where it is SPT, everything else.
        base: the base model. It is never changed: a method that trains the model itself trains a copy.
        build: the module `sptune.build`.
    """

    default_rate: ClassVar[float | None] = None
    """Learning rate where none is given; None is the recipe's `training.prompt_lr`."""

    def __init__(self, settings: MethodSettings, *, recipe: Recipe, base: LoadedBase, build: Build) -> None:
        self.settings = settings
        self.recipe = recipe
        self.base = base
        self.build = build
        self.trainable_parameters = 0

    def fit(
        self,
        data: TrainingData,
        *,
        folder: Path,
        seed: int,
        learning_rate: float | None = None,
        progress: ProgressBar | None = None,
        resume: bool = False,
    ) -> None:
        """Train, and write everything that `load` needs into `folder`.

        A fit that was killed goes on from its newest checkpoint with `resume`; checkpoints are removed when it is complete.

        Args:
            data: dialogues to learn from, and to choose the best checkpoint with.
            folder: the method's own folder; made where it is missing.
            seed: of everything that is drawn.
            learning_rate: of what is trained (SPT: of the prompts); the kind's own default where None.
            progress: shows the training.
            resume: go on with what `folder` holds; a complete fit is left as it is.

        Raises:
            StorageError: `folder` cannot be written, or holds a fit and `resume` is not set.
            UsageError: `folder` holds another fit than the one to be resumed.
            TrainingError: training had to stop.
            KeyboardInterrupt: after Ctrl-C, with the state kept.
        """
        if (folder / METHOD_NAME).is_file():
            if not resume:
                raise StorageError(f"{folder}: holds a complete fit; choose another folder, or resume")
            self._read_record(folder)
        else:
            recipe = self._recipe(folder, seed=seed, rate=learning_rate)
            _keep_recipe(recipe, folder, resume=resume)
            self.trainable_parameters = self._fit(Fit(data, folder, recipe, learning_rate, progress, resume))
            write_json(folder / METHOD_NAME, self._record())
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)

    def load(self, folder: Path) -> SPTModel:
        """The model that `fit` left in `folder`, in evaluation mode.

        Raises:
            AdapterError: the folder holds no complete fit of this method on this base model, or is damaged.
        """
        self._read_record(folder)
        model = self._load(folder)
        model.eval()
        return model

    @abstractmethod
    def _fit(self, fit: Fit) -> int:
        """Train and write; returns how many numbers were trained."""

    @abstractmethod
    def _load(self, folder: Path) -> SPTModel:
        """The model in a folder whose record is good."""

    def _recipe(self, folder: Path, *, seed: int, rate: float | None) -> Recipe:
        rate = rate or self.default_rate or self.recipe.training.prompt_lr
        training = self.recipe.training.model_copy(update={"prompt_lr": rate})
        return self.recipe.model_copy(update={"seed": seed, "output": str(folder), "training": training})

    def _record(self) -> dict[str, Any]:
        return {**self._identity(), "trainable_parameters": self.trainable_parameters}

    def _identity(self) -> dict[str, Any]:
        """What a fit can be loaded with again: JSON values."""
        own = {key: getattr(self.settings, key) for key in self.settings.own_keys}
        backbone = self.base.backbone
        base = {"base": backbone.base, "embedding_sha256": backbone.embedding_hash()}
        identity: dict[str, Any] = json.loads(json.dumps({"kind": self.settings.kind, **base, "settings": own}))
        return identity

    def _read_record(self, folder: Path) -> None:
        path = folder / METHOD_NAME
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            self.trainable_parameters = int(record["trainable_parameters"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AdapterError(f"{path}: no complete fit ({error}); fit the method into this folder again") from error
        for key, value in self._identity().items():
            if record.get(key) != value:
                raise AdapterError(
                    f"{path}: {key} is {record.get(key)!r}, this method has {value!r}; load it with what it was fitted with"
                )


def _keep_recipe(recipe: Recipe, folder: Path, *, resume: bool) -> None:
    """Write the recipe of a fit; one that was begun can only be resumed with what it is trained by."""
    path, own = folder / RECIPE_NAME, recipe.model_copy(update={"output": None})
    if resume and path.is_file() and _trained_by(load_recipe(path)) != _trained_by(own):
        raise UsageError(
            f"{path}: differs from the recipe, seed or learning rate to resume with; choose another folder"
        )
    write_text(path, dump_recipe(own))


def _trained_by(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe but how it is evaluated."""
    return recipe.model_dump(exclude={"evaluation"})
