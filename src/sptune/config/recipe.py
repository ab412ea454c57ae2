"""A whole recipe, the combinations that cannot work, and what `paper_exact` changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from sptune.config.evaluation_section import EvaluationSection
from sptune.config.sections import (
    DataSection,
    LossesSection,
    ModelSection,
    PromptsSection,
    RetrieverSection,
    Section,
    TemplateSection,
    TrainingSection,
)

# What `paper_exact: true` changes the defaults to; a key that the recipe sets itself wins. Source: arXiv 2406.18187 and its published code.
PAPER_EXACT: dict[str, Any] = {
    "template.kind": "paper",  # the published text form
    "template.max_length": 512,  # published limit
    "template.learn_stop": False,  # the published code learns no end of a response; replies are cut at stop texts
    "prompts.count": 4,  # best at K <= 4 (paper, ablation on K)
    "prompts.length": 8,  # OPT; 1 for Llama2-7B
    "retriever.kind": "linear",  # published default of g
    "retriever.activation": "softplus",  # beta 10, threshold 1
    "retriever.centre": False,  # the published retriever reads raw mean embeddings
    "retriever.input": "mean",
    "retriever.whiten": None,
    "retriever.keys": "prompts",
    "losses.selection.kind": "kl",  # published form
    "losses.selection.weight": 0.4,  # OPT; 1.0 for Llama2-7B
    "losses.selection.teacher_temperature": 1.0,  # tau_g
    "losses.selection.student_temperature": 1.0,  # tau_s
    "losses.contrastive.weight": 0.4,  # OPT; 1.0 for Llama2-7B
    "losses.contrastive.similar": "attract",  # published code; the summary of the paper says repel
    "losses.contrastive.similarity": "persona_bleu",  # M: sentence BLEU of the joined persona sentences
    "losses.contrastive.threshold": 20.0,  # Gamma
    "losses.contrastive.same_dialogue": True,  # the published code pairs all contexts of a batch
    "losses.fusion.weight": 1.0,
    "losses.fusion.kind": "score_weighted_logits",  # published code; the paper states averaged probabilities
    "losses.objective": "mean",  # every prompt learns from every example
    "losses.update": "all",
    "training.shared": 0.0,
    "training.optimizer": "adamw_torch",  # with weight_decay 0: Adam
    "training.weight_decay": 0.0,
    "training.prompt_lr": 1e-4,  # 1e-5 in some published configurations
    "training.retriever_lr": 1e-4,
    "training.epochs": 1.0,
    "evaluation.max_new_tokens": 32,
    "evaluation.num_beams": 1,  # greedy for the tables
}


class Recipe(Section):
    """A whole run."""

    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="letters, digits, dot, dash, underscore"
    )
    output: str | None = Field(None, description="run folder; null is runs/NAME")
    seed: int = Field(0, ge=0, lt=2**32, description="of prompts, retriever, order of batches, noise and sampling")
    paper_exact: bool = Field(False, strict=True, description="defaults as in the published code, see below")
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    template: TemplateSection = TemplateSection()
    prompts: PromptsSection = PromptsSection()
    retriever: RetrieverSection = RetrieverSection()
    losses: LossesSection = LossesSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()

    @model_validator(mode="after")
    def _combinations(self) -> Recipe:
        faults = list(_impossible(self))
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output).expanduser() if self.output else Path("runs") / self.name

    @property
    def validates(self) -> bool:
        """Whether there are validation dialogues."""
        return self.data.validation is not None or self.data.validation_path is not None

    @property
    def evaluates(self) -> bool:
        """Whether there are test dialogues."""
        return self.evaluation.split is not None or self.evaluation.path is not None


def _impossible(recipe: Recipe) -> Iterator[str]:
    """Combinations that cannot work, in words."""
    room = recipe.template.max_length - recipe.template.reserve - recipe.prompts.length
    if room < 16:
        yield (
            f"template.max_length: {recipe.template.max_length} leaves {room} tokens for a context beside template.reserve="
            f"{recipe.template.reserve} and prompts.length={recipe.prompts.length}; raise it to {recipe.template.max_length - room + 16} or more"
        )
    if recipe.template.kind == "jinja" and not recipe.template.file:
        yield "template.file: missing; template.kind=jinja needs the path of a Jinja file"
    if recipe.template.file and recipe.template.kind != "jinja":
        yield f"template.file: belongs to template.kind=jinja, which is {recipe.template.kind}; leave one of them out"
    yield from _impossible_prompts(recipe)
    yield from _impossible_retriever(recipe.retriever)
    yield from _impossible_losses(recipe.losses)
    trained_apart = recipe.retriever.keys != "prompts" and recipe.losses.objective != "mean"
    start_apart = recipe.training.keep_starts and recipe.training.starts == recipe.prompts.count
    parted = recipe.training.fork_noise or trained_apart or start_apart or recipe.prompts.count == 1
    if recipe.training.shared and not parted:
        yield "training.fork_noise: 0 leaves prompts that training.shared made equal equal for ever; set it above 0"
    if recipe.training.starts > recipe.prompts.count:
        yield f"training.starts: {recipe.training.starts} is more than prompts.count={recipe.prompts.count}; lower it"
    if recipe.training.keep_starts and (recipe.training.starts == 1 or recipe.prompts.count % recipe.training.starts):
        yield (
            f"training.keep_starts: asks for several starts that divide prompts.count={recipe.prompts.count}; "
            f"training.starts is {recipe.training.starts}"
        )
    if recipe.training.starts > 1 and not recipe.training.shared:
        yield "training.starts: belongs to training.shared, the share of the steps after which the best start is taken; set that above 0"
    if recipe.evaluation.num_beams > 1 and recipe.evaluation.decoding != "top1":
        yield f"evaluation.num_beams: beams follow one prompt; set it to 1 with evaluation.decoding={recipe.evaluation.decoding}"
    if recipe.evaluation.rerank.prior == "none" and recipe.evaluation.rerank.prior_weight:
        yield "evaluation.rerank.prior_weight: belongs to a prior; set it to 0, or evaluation.rerank.prior to prompt or bare"
    if recipe.training.early_stopping and not recipe.validates:
        yield "training.early_stopping: needs validation dialogues; set data.validation or data.validation_path"


def _impossible_prompts(recipe: Recipe) -> Iterator[str]:
    p = recipe.prompts
    if p.init == "text" and not (p.text or "").strip():
        yield "prompts.text: missing; prompts.init=text needs a text"
    if p.init == "file" and not p.file:
        yield "prompts.file: missing; prompts.init=file needs an adapter folder"
    for key in ("text", "file"):
        if getattr(p, key) is not None and p.init != key:
            yield f"prompts.{key}: belongs to prompts.init={key}, which is {p.init}; leave one of them out"
    if p.encoder == "none":
        if p.encoder_hidden:
            yield "prompts.encoder_hidden: belongs to an encoder; set prompts.encoder to separate or shared"
        return
    if p.init != "vocabulary":
        yield f"prompts.init: {p.init} is lost with prompts.encoder={p.encoder}, which makes the prompts; leave one of them out"
    if recipe.training.shared:
        yield f"training.shared: belongs to prompts that are trained themselves, not by prompts.encoder={p.encoder}; leave one of them out"


def _impossible_retriever(retriever: RetrieverSection) -> Iterator[str]:
    if retriever.hidden is not None and retriever.kind in ("identity", "transformer"):
        yield f"retriever.hidden: retriever.kind={retriever.kind} keeps the embedding width; leave it out, or choose linear or mlp"
    if retriever.input == "hidden" and retriever.keys == "prompts":
        yield "retriever.keys: retriever.input=hidden reads hidden states, which are no match for prompts; set retriever.keys=clusters or random"
    if retriever.kind == "transformer" and (retriever.input != "mean" or retriever.whiten):
        yield "retriever.input: retriever.kind=transformer reads all tokens; leave input and whiten out, or choose linear, mlp or identity"
    if retriever.kind == "transformer" and retriever.keys == "clusters":
        yield "retriever.keys: clusters are of one vector a context, and retriever.kind=transformer reads all tokens; set retriever.keys=random"


def _impossible_losses(losses: LossesSection) -> Iterator[str]:
    if losses.contrastive.similarity == "encoder" and not losses.contrastive.encoder:
        yield "losses.contrastive.encoder: missing; similarity=encoder needs a sentence encoder's folder or hub id"
    if losses.contrastive.encoder and losses.contrastive.similarity != "encoder":
        yield (
            f"losses.contrastive.encoder: belongs to similarity=encoder, which is {losses.contrastive.similarity}; "
            "leave one of them out"
        )
    if losses.llm_weight == 0 and losses.fusion.weight == 0:
        yield "losses.llm_weight: 0 with losses.fusion.weight=0 trains no prompt; set one of them above 0"
    if losses.llm_weight == 0 and losses.objective != "mean" and not losses.balance_weight:
        yield f"losses.objective: {losses.objective} is a form of L_LLM, which losses.llm_weight=0 switches off; leave one of them out"
    if losses.llm_weight == 0 and losses.update != "all":
        yield f"losses.update: {losses.update} is a form of L_LLM, which losses.llm_weight=0 switches off; leave one of them out"
    if losses.shuffle_teachers and losses.objective == "mean" and not losses.selection.weight:
        yield "losses.shuffle_teachers: there is no teacher to shuffle; set losses.selection.weight above 0, or an objective with a gate"
    if losses.shuffle_teachers and losses.fusion.weight and losses.fusion.kind == "score_weighted_logits":
        yield (
            "losses.shuffle_teachers: the score-weighted fusion teaches the retriever, too, and cannot be shuffled; "
            "set losses.fusion.kind=probability"
        )
    if losses.objective != "mean" and losses.update != "all":
        yield f"losses.update: {losses.update} belongs to losses.objective=mean; leave one of them out"
    if losses.objective == "mean" and losses.balance_weight:
        yield "losses.balance_weight: belongs to losses.objective=expected or mixture; leave it out, or set the objective"
    if losses.objective != "expected" and losses.uniform_share:
        yield "losses.uniform_share: belongs to losses.objective=expected; leave it out, or set the objective"
    if losses.selection.kind == "regret" and losses.selection.teacher_noise:
        yield "losses.selection.teacher_noise: belongs to losses.selection.kind=kl; leave one of them out"
