"""The composition root: turns a recipe into a model, a trainer, and what they need. It and `preflight` alone see the recipe and everything else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sptune.adapter import PROMPTS_KEY, load_adapter
from sptune.config import Recipe, RerankSection, load_recipe
from sptune.data.encoder import DialogueEncoder
from sptune.data.template import Template, default_stops, make_template
from sptune.data.truncation import TruncationReport, count_truncation
from sptune.errors import AdapterError, RecipeError
from sptune.evaluation.candidate_replies import Reranking, Sampling
from sptune.evaluation.rerank import RerankWeights
from sptune.model import prompts as initial
from sptune.model.encoded_prompts import EncodedPrompts
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase, load_base
from sptune.model.mixture import Speakers
from sptune.model.prompts import SoftPrompts
from sptune.model.retriever import Reading, Retriever, seeded_retriever
from sptune.model.spt import SPTModel

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from sptune.data.dialogue import Dialogue
    from sptune.evaluation.run import Settings
    from sptune.run_data import RunData
    from sptune.training.trainer import SPTTrainer


def make_model(recipe: Recipe, *, base: LoadedBase | None = None) -> SPTModel:
    """The untrained model of a recipe.

    Args:
        recipe: the recipe.
        base: the base model where it is loaded already.

    Raises:
        ModelError: the base model cannot be used.
        RecipeError: prompts that cannot be made as asked for.
    """
    loaded = base or load_recipe_base(recipe)
    if recipe.model.gradient_checkpointing:
        loaded.backbone.checkpoint_activations()
    soft = make_prompts(recipe, loaded)
    retriever = make_retriever(recipe, loaded)
    encoder = make_encoder(recipe, loaded)
    speakers = decoding(recipe).speakers(Speakers())
    return SPTModel(loaded.backbone, soft, retriever, encoder, stops=stops(recipe), speakers=speakers)


def make_retriever(recipe: Recipe, base: LoadedBase) -> Retriever:
    """The untrained retriever of a recipe.

    Raises:
        RecipeError: a kind that the widths or the reading do not allow.
    """
    r = recipe.retriever
    reading = Reading(r.input, half_life=r.half_life, rank=r.whiten)
    dim = base.backbone.hidden_dim if r.input == "hidden" else base.backbone.embedding_dim
    keys = None if r.keys == "prompts" else recipe.prompts.count

    def make() -> Retriever:
        return Retriever(r.kind, dim=dim, hidden=r.hidden, activation=r.activation, reading=reading, keys=keys)

    return seeded_retriever(make, seed=recipe.seed)


def make_bare_model(recipe: Recipe, *, base: LoadedBase) -> SPTModel:
    """The base model alone, with the recipe's template: one prompt of no virtual tokens."""
    soft = SoftPrompts(torch.zeros(1, 0, base.backbone.embedding_dim))
    bare = recipe.model_copy(update={"prompts": recipe.prompts.model_copy(update={"length": 0, "count": 1})})
    retriever = Retriever("identity", dim=base.backbone.embedding_dim)
    return SPTModel(base.backbone, soft, retriever, make_encoder(bare, base), stops=stops(recipe))


def make_trainer(
    recipe: Recipe, model: SPTModel, data: RunData, *, callbacks: Sequence[TrainerCallback] = ()
) -> SPTTrainer:
    """The trainer of a recipe.

    Raises:
        DataError: there is nothing to learn from, or a response that does not fit.
    """
    from sptune.training.trainer import SPTTrainer

    return SPTTrainer(
        model,
        data.train,
        validation=data.validation,
        folder=recipe.folder,
        training=recipe.training,
        losses=recipe.losses,
        centre=recipe.retriever.centre,
        clusters=recipe.retriever.keys == "clusters",
        seed=recipe.seed,
        callbacks=callbacks,
    )


def load_recipe_base(recipe: Recipe) -> LoadedBase:
    """The base model of a recipe."""
    m = recipe.model
    return load_base(m.base, revision=m.revision, dtype=m.dtype, device=m.device)


def make_template_of(recipe: Recipe, base: LoadedBase) -> Template:
    """The recipe's template for that base model."""
    return make_template(recipe.template.kind, tokenizer=base.tokenizer, file=recipe.template.file)


def make_encoder(recipe: Recipe, base: LoadedBase) -> DialogueEncoder:
    """The recipe's encoder for that base model.

    Raises:
        RecipeError: `template.max_length` exceeds the base model's window.
    """
    window = base.backbone.window
    if window is not None and recipe.template.max_length > window:
        raise RecipeError(
            f"template.max_length: {recipe.template.max_length} exceeds the window of {recipe.model.base}, {window} tokens; "
            f"set it to {window} or less"
        )
    return DialogueEncoder(
        base.tokenizer,
        make_template_of(recipe, base),
        max_length=recipe.template.max_length,
        prompt_length=recipe.prompts.length,
        reserve=recipe.template.reserve,
        learn_stop=recipe.template.learn_stop,
        window=window,
    )


def stops(recipe: Recipe) -> tuple[str, ...]:
    """The texts that end a reply under the recipe's template."""
    if recipe.template.stops is not None:
        return recipe.template.stops
    return default_stops(recipe.template.kind)


def decoding(recipe: Recipe) -> Decoding:
    """How replies are generated for the run's evaluation."""
    e = recipe.evaluation
    return Decoding(
        max_new_tokens=e.max_new_tokens,
        num_beams=e.num_beams,
        no_repeat_ngram_size=e.no_repeat_ngram_size,
        no_repeat_history_ngram=e.no_repeat_history_ngram,
        kind="top1" if e.decoding == "rerank" else e.decoding,
        gate_temperature=e.gate_temperature or recipe.losses.gate_temperature,
    )


def evaluation_settings(recipe: Recipe) -> Settings:
    """How the run is evaluated."""
    from sptune.evaluation.run import Settings

    e = recipe.evaluation
    return Settings(
        profile=e.profile,
        decoding=decoding(recipe),
        rerank=reranking(recipe),
        bertscore_model=e.bertscore_model,
        seed=recipe.seed,
    )


def reranking(recipe: Recipe) -> Reranking | None:
    """How candidates are drawn and chosen from in the run's evaluation; None where `evaluation.decoding` is another."""
    e = recipe.evaluation
    return make_reranking(e.rerank, seed=recipe.seed) if e.decoding == "rerank" else None


def make_reranking(section: RerankSection, *, seed: int) -> Reranking:
    """Sampling and weights of a recipe's section `evaluation.rerank`."""
    drawn = ("candidates", "greedy", "source", "temperature", "top_p", "prior", "similarity")
    weights = RerankWeights(
        likelihood=section.likelihood,
        length_power=section.length_power,
        prior=section.prior_weight,
        consensus=section.consensus_weight,
        persona=section.persona_weight,
    )
    return Reranking(Sampling(**section.model_dump(include=set(drawn)), seed=seed), weights)


def make_prompts(recipe: Recipe, base: LoadedBase) -> SoftPrompts:
    """The untrained prompts of a recipe.

    Raises:
        RecipeError: a prompts file of another shape.
        AdapterError: a prompts file that is damaged.
    """
    p = recipe.prompts
    if p.encoder == "none":
        return SoftPrompts(initial_prompts(recipe, base))
    return EncodedPrompts(
        count=p.count,
        length=p.length,
        dim=base.backbone.embedding_dim,
        encoder=p.encoder,
        hidden=p.encoder_hidden,
        seed=recipe.seed,
    )


def initial_prompts(recipe: Recipe, base: LoadedBase) -> torch.Tensor:
    """(K, L, D) the recipe's initial prompts; they differ from each other.

    Raises:
        RecipeError: a prompts file of another shape.
        AdapterError: a prompts file that is damaged.
    """
    p = recipe.prompts
    table = base.backbone.vocabulary()
    generator = torch.Generator().manual_seed(recipe.seed)
    if p.init == "file":
        return initial.distinct(_prompts_from_file(recipe, table), generator)
    if p.init == "text":
        ids = base.tokenizer.encode(p.text or "", add_special_tokens=False)
        return initial.from_token_ids(table, ids=ids, count=p.count, length=p.length, generator=generator)
    if p.init == "kmeans":
        return initial.from_kmeans(table, count=p.count, length=p.length, seed=recipe.seed)
    make = initial.sample_rows if p.init == "vocabulary" else initial.random_normal
    return make(table, count=p.count, length=p.length, generator=generator)


def _prompts_from_file(recipe: Recipe, table: torch.Tensor) -> torch.Tensor:
    try:
        adapter = load_adapter(Path(recipe.prompts.file or ""))
    except AdapterError as error:
        raise AdapterError(f"prompts.file: {error}") from error
    wanted = (recipe.prompts.count, recipe.prompts.length, table.shape[1])
    found = tuple(adapter.tensors[PROMPTS_KEY].shape)
    if found != wanted:
        raise RecipeError(
            f"prompts.file: {recipe.prompts.file} holds {found[0]} prompts of {found[1]} tokens and width {found[2]}, the recipe asks for "
            f"{wanted}; set prompts.count={found[0]} and prompts.length={found[1]}"
        )
    return adapter.tensors[PROMPTS_KEY]


def truncation_report(recipe: Recipe | str | Path, dialogues: Sequence[Dialogue]) -> TruncationReport:
    """How the recipe's template and `max_length` treat dialogues. Loads the base model.

    Args:
        recipe: a recipe, or its file or bundled name.
        dialogues: at least one.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    return count_truncation(make_encoder(recipe, load_recipe_base(recipe)), dialogues)
