"""Textual prompting: the bare model, told what to do, shown examples, or shown retrieved ones (RAG). Nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sptune.baselines.examples import Shelf, load_examples, save_examples, shuffled
from sptune.baselines.front import put_in_front
from sptune.baselines.method import Fit, FittedMethod
from sptune.baselines.retrieval import ExampleSearch
from sptune.errors import RecipeError

if TYPE_CHECKING:
    from sptune.baselines.front import Front
    from sptune.config import Recipe
    from sptune.config.compare import MethodSettings
    from sptune.data.dialogue import Turn
    from sptune.model.load import LoadedBase
    from sptune.model.spt import SPTModel

INSTRUCTION = (
    "Below are facts about a person and a conversation with that person. Reply to the last message as that person would, in one or two "
    "short sentences, and never contradict the facts."
)


class Prompting(FittedMethod):
    """Kinds `zero_shot`, `few_shot` and `rag`."""

    def _fit(self, fit: Fit) -> int:
        keep_front(self.settings, self._bare(), fit)
        self._load(fit.folder)  # what cannot be loaded shall fail now
        return 0

    def _load(self, folder: Path) -> SPTModel:
        model = self._bare()
        read_front(self.settings, model, folder, base=self.base, recipe=self.recipe)
        return model

    def _bare(self) -> SPTModel:
        return self.build.make_bare_model(self.recipe, base=self.base)


def keep_front(settings: MethodSettings, model: SPTModel, fit: Fit) -> None:
    """Write the examples that `read_front` needs; nothing where a method shows none.

    Args:
        settings: the method's.
        model: whose template and tokenizer render and count examples; nothing is in front of it yet.
        fit: data, folder and seed.

    Raises:
        RecipeError: no exchange, or none that fits.
        StorageError: the folder cannot be written.
    """
    if settings.kind != "few_shot" and not _retrieves(settings):
        return
    shelf = Shelf(fit.data.train, encoder=model.encoder, count=settings.examples)
    if _retrieves(settings):
        save_examples(shelf.dialogues, fit.folder)
        return
    chosen = shelf.choose(shuffled(len(shelf.examples), fit.recipe.seed))
    if not chosen:
        raise RecipeError(f"examples: no training exchange fits into {shelf.room} tokens; give shorter data.train")
    save_examples([shelf.examples[n].alone() for n in chosen], fit.folder)


def read_front(settings: MethodSettings, model: SPTModel, folder: Path, *, base: LoadedBase, recipe: Recipe) -> None:
    """Put a method's instruction and examples in front of every context that `model` reads.

    Args:
        settings: the method's.
        model: with the recipe's own template.
        folder: where `keep_front` wrote.
        base: whose word embeddings retrieval compares.
        recipe: the method's recipe.

    Raises:
        AdapterError: the kept examples are missing or damaged.
        RecipeError: there is no room in the base model's window.
        UsageError: a package that retrieval needs is not installed.
    """
    own = INSTRUCTION if settings.kind == "zero_shot" else ""
    instruction = own if settings.instruction is None else settings.instruction
    examples: Front = _nothing
    room = _tokens(model, instruction)
    if settings.kind == "few_shot" or _retrieves(settings):
        shelf = Shelf(load_examples(folder), encoder=model.encoder, count=settings.examples)
        if _retrieves(settings):
            room += shelf.room
            examples = ExampleSearch(shelf, kind=settings.rag or "bm25", base=base)
        else:
            fixed = shelf.text(range(len(shelf.examples)))
            room += _tokens(model, fixed)
            examples = _always(fixed)
    if room:
        front = _joined(instruction, examples)
        put_in_front(model, front, tokens=room, max_length=recipe.template.max_length)


def _tokens(model: SPTModel, text: str) -> int:
    """Tokens of a text in front of a context."""
    return len(model.encoder.tokenizer.encode(f"{text}\n\n", add_special_tokens=False)) if text else 0


def _retrieves(settings: MethodSettings) -> bool:
    return settings.kind == "rag" or settings.rag is not None


def _nothing(persona: Sequence[str], turns: Sequence[Turn]) -> str:
    return ""


def _always(text: str) -> Front:
    return lambda persona, turns: text


def _joined(instruction: str, examples: Front) -> Front:
    return lambda persona, turns: "\n\n".join(filter(None, (instruction, examples(persona, turns))))
