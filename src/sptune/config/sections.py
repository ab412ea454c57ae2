"""The sections of a recipe: every key with its type, range, default and meaning (docs/recipes.md is made of them)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

RANGE = re.compile(r"([0-9]*):([0-9]*)")


def _is_range(value: Any) -> Any:
    if value is None:
        return None
    found = RANGE.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError("write FIRST:LAST, counted from 1, both included, as in 701:750, 1: or :50")
    first = int(found[1] or 1)
    if first < 1 or int(found[2] or first) < first:
        raise ValueError("an empty range; the first number is at least 1 and at most the last")
    return value


Range = Annotated[str | None, BeforeValidator(_is_range)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1e6)]
Temperature = Annotated[float, Field(gt=0, le=1e6)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of a recipe. Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_all_defaults(cls, value: Any) -> Any:
        return {} if value is None else value


class ModelSection(Section):
    """The frozen base model."""

    base: str = Field(
        "smollm2-135m", min_length=1, description="alias, local folder or hub id of a causal language model"
    )
    revision: str | None = Field(None, description="hub revision")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="what the base model computes in"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, more time"
    )


class DataSection(Section):
    """The dialogues."""

    path: str = Field(
        "sample", min_length=1, description="a file, `sample` (the bundled dialogues) or `hub:owner/name`"
    )
    format: Literal["auto", "convai2", "messages", "sharegpt", "personachat", "xpersona", "msc", "synthetic", "hub"] = (
        Field("auto", description="file format; auto detects it")
    )
    persona: Literal["self", "other", "both", "none"] = Field("self", description="which persona lines to use")
    train: Range = Field(None, description="dialogues to train on, 'A:B', counted from 1, both included; null is all")
    validation_path: str | None = Field(None, description="file of the validation dialogues; null is data.path")
    validation: Range = Field(
        None, description="dialogues to validate on, 'A:B'; null is none, unless validation_path is set"
    )
    on_error: Literal["stop", "skip"] = Field("stop", description="what to do with faulty dialogues")


class TemplateSection(Section):
    """How a dialogue becomes tokens."""

    kind: Literal["paper", "chat", "jinja"] = Field(
        "paper", description="published form, the model's chat template, or a Jinja file"
    )
    file: str | None = Field(None, description="the Jinja file of kind jinja")
    max_length: int = Field(
        512,
        ge=16,
        le=1_000_000,
        description="tokens of prompt, context and reserve; older turns are dropped to keep it",
    )
    reserve: int = Field(64, ge=1, description="tokens kept free for the response")
    learn_stop: bool = Field(True, description="learn where a response ends")
    stops: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None, description="texts that end a reply; null: line break, R:, Q:, colon for paper, else none"
    )


class PromptsSection(Section):
    """The soft prompts."""

    count: int = Field(4, ge=1, le=256, description="K")
    length: int = Field(8, ge=1, le=1024, description="L, virtual tokens of each prompt")
    init: Literal["vocabulary", "text", "kmeans", "random", "file"] = Field(
        "vocabulary", description="where the prompts start"
    )
    text: str | None = Field(None, description="the text of init=text")
    file: str | None = Field(None, description="an adapter folder whose prompts init=file takes")
    encoder: Literal["none", "separate", "shared"] = Field(
        "none",
        description="a small network that makes the prompts while they are trained: none, one for each prompt (P-tuning where K = 1), or one for all",
    )
    encoder_hidden: int | None = Field(
        None, ge=1, le=65_536, description="width of its two hidden layers; null is that of the embeddings"
    )


class RetrieverSection(Section):
    """The dense retriever."""

    kind: Literal["linear", "transformer", "mlp", "identity"] = Field(
        "linear", description="the map g of contexts and prompts"
    )
    hidden: int | None = Field(None, ge=1, le=65_536, description="width of g's output; null is that of what is read")
    activation: Literal["softplus", "relu", "leaky_relu", "none"] = Field("softplus", description="of the cosine")
    centre: bool = Field(
        True, description="subtract the mean context vector of the training data; whitening always does"
    )
    input: Literal["mean", "recent", "hidden"] = Field(
        "mean",
        description="what is read: mean word embedding, the same with recent tokens weighing more, or the bare model's last hidden state",
    )
    half_life: float = Field(
        8.0, gt=0, le=1e6, description="of input=recent: tokens towards the past after which a weight is halved"
    )
    whiten: int | None = Field(
        None,
        ge=1,
        le=4096,
        strict=True,  # or true would be 1
        description="read that many whitened principal components of the training contexts; null reads the raw vector",
    )
    keys: Literal["prompts", "random", "clusters"] = Field(
        "prompts",
        description="what contexts are compared with: the prompts' means (published), or trained keys that start at random or at k-means centres",
    )


class SelectionLossSection(Section):
    """KL between the language model's preference and the retriever's."""

    weight: Weight = Field(0.4, description="w_sel; 0 switches it off")
    teacher_temperature: Positive = Field(1.0, description="tau_g")
    student_temperature: Positive = Field(1.0, description="tau_s")
    teacher_noise: Weight = Field(
        0.0, description="standard deviation of noise added to the teacher's losses, nats per token"
    )
    kind: Literal["kl", "regret"] = Field(
        "kl", description="scores copy the losses (published), or the regret of choosing by them is minimised"
    )


class ContrastiveLossSection(Section):
    """Pairs of contexts: similar ones share a score pattern, others do not."""

    weight: Weight = Field(0.4, description="w_con; 0 switches it off")
    similar: Literal["attract", "repel"] = Field(
        "attract", description="published code attracts, the paper's summary repels"
    )
    similarity: Literal["persona_bleu", "context_bleu", "jaccard", "chrf", "embedding", "encoder"] = Field(
        "persona_bleu", description="M"
    )
    threshold: float = Field(20.0, ge=0, le=100, description="Gamma, on a scale of 0 to 100 whatever M is")
    encoder: str | None = Field(None, description="folder or hub id of the sentence encoder of similarity=encoder")
    same_dialogue: bool = Field(False, description="also pair turns of one dialogue")


class FusionLossSection(Section):
    """The target's likelihood under all prompts together."""

    weight: Weight = Field(1.0, description="w_fus; 0 switches it off")
    kind: Literal["probability", "score_weighted_logits"] = Field(
        "probability", description="as the paper states, or as published code does"
    )


class LossesSection(Section):
    """L = llm + selection + contrastive + fusion + balance, each with its weight."""

    objective: Literal["mean", "expected", "mixture"] = Field(
        "mean",
        description="L_LLM of all prompts alike (published), of each by the gate softmax(scores / gate_temperature), or of their gated mixture",
    )
    gate_temperature: Temperature = Field(0.1, description="of objectives expected and mixture")
    uniform_share: float = Field(
        0.0, ge=0, le=1, description="of objective=expected: share of the gate that is spread evenly over the prompts"
    )
    balance_weight: Weight = Field(
        0.0,
        description="of the divergence of a batch's mean gate from an even one, for objectives expected and mixture",
    )
    shuffle_teachers: bool = Field(
        False,
        description="a control: the contexts of a batch exchange their losses at random before the retriever learns",
    )
    llm_weight: Weight = Field(1.0, description="weight of L_LLM; 0 switches it off")
    selection: SelectionLossSection = SelectionLossSection()
    contrastive: ContrastiveLossSection = ContrastiveLossSection()
    fusion: FusionLossSection = FusionLossSection()
    update: Literal["all", "responsibility"] = Field(
        "all", description="every prompt learns from every example, or most from its own"
    )
    responsibility_temperature: Positive = Field(0.1, description="tau_r, nats per token")
    responsibility_anneal: float = Field(
        0.5, ge=0, le=1, description="share of training over which uniform weights turn into responsibilities"
    )


class TrainingSection(Section):
    """The optimisation."""

    shared: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the steps at the start in which the K prompts are trained as one, at the cost of K = 1",
    )
    starts: int = Field(
        1,
        ge=1,
        description="prompts that are trained apart in that share, each at the cost of K = 1; all go on from the best of them",
    )
    keep_starts: bool = Field(
        False,
        strict=True,
        description="all starts go on, prompt k from start k mod starts; so many neighbouring keys begin on one cluster",
    )
    fork_noise: Weight = Field(
        0.02, description="noise that parts the prompts after training.shared, in standard deviations of the prompt"
    )
    epochs: Positive = Field(1.0, description="passes over the training dialogues; may be a part of one, e.g. 0.5")
    max_steps: int | None = Field(None, ge=1, description="stop after that many steps, whatever the epochs")
    batch_tokens: int = Field(
        1024, ge=16, description="tokens of a batch after padding; each of the K prompts runs them"
    )
    gradient_accumulation: int = Field(1, ge=1, description="batches per step")
    prompt_lr: Rate = Field(5e-3, description="learning rate of the prompts")
    retriever_lr: Rate = Field(1e-3, description="learning rate of the retriever")
    optimizer: Literal["adamw_torch", "adafactor", "sgd"] = Field(
        "adamw_torch", description="Adam where weight_decay is 0"
    )
    weight_decay: Weight = Field(0.0, description="decoupled, of prompts and retriever")
    scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        "linear", description="how the learning rates go down"
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    max_grad_norm: Weight = Field(1.0, description="0 is no clipping")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints; each also validates")
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest checkpoints are kept, beside the best")
    log_every: int = Field(5, ge=1, description="steps between lines of metrics.jsonl")
    early_stopping: int | None = Field(None, ge=1, description="stop after that many validations without a better one")
    metric: Literal["perplexity", "fused_perplexity"] = Field(
        "perplexity", description="validation figure that chooses the best adapter"
    )
    report_to: tuple[str, ...] = Field(
        ("tensorboard",), description="as in transformers: tensorboard, wandb, mlflow, ...; [] for none"
    )

    @property
    def kept_starts(self) -> int:
        """How many starts go on after `shared`: so many neighbouring keys begin on one cluster."""
        return self.starts if self.keep_starts else 1
