"""What a run would refuse, asked before it begins: mistakes in data and settings must not show after hours of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sptune.errors import ModelError
from sptune.model.generate import check_window

if TYPE_CHECKING:
    from sptune.config import Recipe
    from sptune.model.spt import SPTModel
    from sptune.run_data import RunData


def check_run(recipe: Recipe, model: SPTModel, data: RunData) -> None:
    """Refuse what a run would refuse when recipe, data and base model are good each by itself, without beginning one.

    Contexts are not read where that would run the model over all of them (`retriever.input=hidden`).

    Raises:
        DataError: there is nothing to learn from or to measure, a response that does not fit, or fewer turns than clusters.
        RecipeError: a tracker that is not installed; contexts that vary in fewer directions than whitening asks for.
        ModelError: a sentence encoder, or an encoder of BERTScore, that cannot be loaded.
    """
    from sptune.training.arguments import training_arguments
    from sptune.training.loader import encode_data
    from sptune.training.preparation import prepare_retriever
    from sptune.training.similarity import make_similarity

    r, t = recipe.retriever, recipe.training
    sequences = encode_data(model, data.train, data.validation)
    check_test(recipe, model, data)
    if r.input != "hidden":
        prepare_retriever(
            model,
            sequences,
            budget=t.batch_tokens,
            centre=r.centre,
            clusters=r.keys == "clusters",
            alike=t.kept_starts,
            seed=recipe.seed,
        )
    contrastive = recipe.losses.contrastive
    make_similarity(contrastive.similarity, backbone=model.backbone, encoder=contrastive.encoder)
    device = model.backbone.device
    training_arguments(recipe.training, recipe.folder, seed=recipe.seed, device=device, validates=recipe.validates)
    check_bertscore(recipe)


def check_test(recipe: Recipe, model: SPTModel, data: RunData) -> None:
    """Refuse test dialogues that the evaluation at a run's end would refuse.

    Raises:
        DataError: none has a response, or one does not fit the base model's window.
        UsageError: replies that the window has no room for.
    """
    from sptune.training.loader import encode_all

    if not data.test:
        return
    sequences = encode_all(model, data.test, key="evaluation.split")
    longest = max(span.context_length for sequence in sequences for span in sequence.spans)
    check_window(model, longest, recipe.evaluation.max_new_tokens)


def check_bertscore(recipe: Recipe) -> None:
    """Load the encoder of BERTScore and let go of it again: what is wrong with it must not show after hours of training.

    Raises:
        ModelError: it cannot be loaded.
    """
    from sptune.evaluation.metrics import bertscore

    name = recipe.evaluation.bertscore_model
    if name is None or not recipe.evaluates or not bertscore.installed():
        return
    try:
        bertscore.load_encoder(name)
    except ModelError as error:
        raise ModelError(f"evaluation.bertscore_model: {error}") from error
    finally:
        bertscore.load_encoder.cache_clear()  # training needs the memory
