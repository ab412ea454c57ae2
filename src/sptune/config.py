"""Recipes: what to train, on which data, and how. YAML in, a checked `Recipe` out; all mistakes are reported together."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from sptune.errors import RecipeError

Range = Annotated[str | None, Field(pattern=r"^\d*:\d*$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of a recipe. Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """The frozen base model."""

    base: str = Field("smollm2-135m", min_length=1, description="alias, local folder or hub id of a causal language model")
    revision: str | None = Field(None, description="hub revision")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="what the base model computes in")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    gradient_checkpointing: bool = Field(False, description="compute activations again in the backward pass: less memory, more time")


class DataSection(Section):
    """The dialogues."""

    path: str = Field("sample", min_length=1, description="a file, `sample` (the bundled dialogues) or `hub:owner/name`")
    format: Literal["auto", "convai2", "messages", "sharegpt", "hub"] = Field("auto", description="file format; auto detects it")
    persona: Literal["self", "other", "both", "none"] = Field("self", description="which persona lines to use")
    train: Range = Field(None, description="dialogues to train on, 'A:B', counted from 1, both included; null is all")
    validation_path: str | None = Field(None, description="file of the validation dialogues; null is data.path")
    validation: Range = Field(None, description="dialogues to validate on, 'A:B'; null is none, unless validation_path is set")
    on_error: Literal["stop", "skip"] = Field("stop", description="what to do with faulty dialogues")


class TemplateSection(Section):
    """How a dialogue becomes tokens."""

    kind: Literal["paper", "chat", "jinja"] = Field("paper", description="published form, the model's chat template, or a Jinja file")
    file: str | None = Field(None, description="the Jinja file of kind jinja")
    max_length: int = Field(512, ge=16, le=1_000_000, description="tokens of prompt, context and reserve; older turns are dropped to keep it")
    reserve: int = Field(64, ge=1, description="tokens kept free for the response")
    learn_stop: bool = Field(True, description="learn where a response ends")
    stops: tuple[str, ...] | None = Field(None, description="texts that end a reply; null: line break, R:, Q:, colon for paper, else none")


class PromptsSection(Section):
    """The soft prompts."""

    count: int = Field(4, ge=1, le=256, description="K")
    length: int = Field(8, ge=1, le=1024, description="L, virtual tokens of each prompt")
    init: Literal["vocabulary", "text", "kmeans", "random", "file"] = Field("vocabulary", description="where the prompts start")
    text: str | None = Field(None, description="the text of init=text")
    file: str | None = Field(None, description="an adapter folder whose prompts init=file takes")


class RetrieverSection(Section):
    """The dense retriever."""

    kind: Literal["linear", "transformer", "mlp", "identity"] = Field("linear", description="the map g of contexts and prompts")
    hidden: int | None = Field(None, ge=1, le=65_536, description="width of g's output; null is the embedding width")
    activation: Literal["softplus", "relu", "leaky_relu"] = Field("softplus", description="of the cosine")
    centre: bool = Field(True, description="subtract the mean context vector of the training data")


class SelectionLossSection(Section):
    """KL between the language model's preference and the retriever's."""

    weight: Weight = 0.4
    teacher_temperature: Positive = Field(1.0, description="tau_g")
    student_temperature: Positive = Field(1.0, description="tau_s")
    teacher_noise: Weight = Field(0.0, description="standard deviation of noise added to the teacher's losses, nats per token")


class ContrastiveLossSection(Section):
    """Pairs of contexts: similar ones share a score pattern, others do not."""

    weight: Weight = 0.4
    similar: Literal["attract", "repel"] = Field("attract", description="published code attracts, the paper's summary repels")
    similarity: Literal["persona_bleu", "context_bleu", "jaccard", "chrf", "embedding", "encoder"] = Field("persona_bleu", description="M")
    threshold: float = Field(20.0, ge=0, le=100, description="Gamma, on a scale of 0 to 100 whatever M is")
    encoder: str | None = Field(None, description="folder or hub id of the sentence encoder of similarity=encoder")
    same_dialogue: bool = Field(False, description="also pair turns of one dialogue")


class FusionLossSection(Section):
    """The target's likelihood under all prompts together."""

    weight: Weight = 1.0
    kind: Literal["probability", "score_weighted_logits"] = Field("probability", description="as the paper states, or as published code does")


class LossesSection(Section):
    """L = llm + selection + contrastive + fusion, each with its weight."""

    llm_weight: Weight = 1.0
    selection: SelectionLossSection = SelectionLossSection()
    contrastive: ContrastiveLossSection = ContrastiveLossSection()
    fusion: FusionLossSection = FusionLossSection()
    update: Literal["all", "responsibility"] = Field("all", description="every prompt learns from every example, or most from its own")
    responsibility_temperature: Positive = Field(0.1, description="tau_r, nats per token")
    responsibility_anneal: float = Field(0.5, ge=0, le=1, description="share of training over which uniform weights turn into responsibilities")


class TrainingSection(Section):
    """The optimisation."""

    epochs: Positive = 1.0
    max_steps: int | None = Field(None, ge=1, description="stop after that many steps, whatever the epochs")
    batch_tokens: int = Field(1024, ge=16, description="tokens of a batch after padding; each of the K prompts runs them")
    gradient_accumulation: int = Field(1, ge=1, description="batches per step")
    prompt_lr: Positive = Field(5e-3, description="learning rate of the prompts")
    retriever_lr: Positive = Field(1e-3, description="learning rate of the retriever")
    optimizer: Literal["adamw_torch", "adafactor", "sgd"] = Field("adamw_torch", description="Adam where weight_decay is 0")
    weight_decay: Weight = 0.0
    scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "linear"
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    max_grad_norm: Weight = Field(1.0, description="0 is no clipping")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints; each also validates")
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest checkpoints are kept, beside the best")
    log_every: int = Field(5, ge=1, description="steps between lines of metrics.jsonl")
    early_stopping: int | None = Field(None, ge=1, description="stop after that many validations without a better one")
    metric: Literal["perplexity", "fused_perplexity"] = Field("perplexity", description="validation figure that chooses the best adapter")
    report_to: tuple[str, ...] = Field(("tensorboard",), description="as in transformers: tensorboard, wandb, mlflow, ...; [] for none")


class EvaluationSection(Section):
    """What the run is evaluated on at its end, and how replies are generated."""

    path: str | None = Field(None, description="file of the test dialogues; null is data.path, and no evaluation where split is null too")
    split: Range = Field(None, description="dialogues to evaluate on, 'A:B'; null is all of evaluation.path")
    base: bool = Field(True, description="also evaluate the bare base model")
    limit: int | None = Field(None, ge=1, description="at most that many dialogues")
    profile: Literal["paper", "standard"] = Field("paper", description="rules of the metrics, see docs/metrics.md")
    max_new_tokens: int = Field(32, ge=1, le=4096)
    num_beams: int = Field(1, ge=1, le=64)
    no_repeat_ngram_size: int = Field(0, ge=0)


class Recipe(Section):
    """A whole run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output: str | None = Field(None, description="run folder; null is runs/NAME")
    seed: int = Field(0, ge=0, lt=2**32)
    paper_exact: bool = Field(False, description="defaults as in the published code, see PAPER_EXACT")
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
            raise ValueError("\n  ".join(faults))
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output) if self.output else Path("runs") / self.name

    @property
    def validates(self) -> bool:
        """Whether there are validation dialogues."""
        return self.data.validation is not None or self.data.validation_path is not None

    @property
    def evaluates(self) -> bool:
        """Whether there are test dialogues."""
        return self.evaluation.split is not None or self.evaluation.path is not None


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
    "losses.update": "all",  # every prompt learns from every example
    "training.optimizer": "adamw_torch",  # with weight_decay 0: Adam
    "training.weight_decay": 0.0,
    "training.prompt_lr": 1e-4,  # 1e-5 in some published configurations
    "training.retriever_lr": 1e-4,
    "training.epochs": 1.0,
    "evaluation.max_new_tokens": 32,
    "evaluation.num_beams": 1,  # greedy for the tables
}


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file (or the name of a bundled recipe) and apply `key=value` overrides.

    Args:
        source: path of a YAML file, or a bundled recipe's name such as `quickstart`.
        overrides: dotted keys, e.g. `training.epochs=2`; values are YAML.

    Raises:
        RecipeError: the file cannot be read, or it has mistakes: all of them, each with the key, the value and the nearest known key.
    """
    path = find_recipe(source)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a YAML mapping such as `training: {{epochs: 1}}`, this is a {type(raw).__name__}")
    return parse_recipe(raw, overrides, place=str(path))


def parse_recipe(raw: dict[str, Any], overrides: Sequence[str] = (), *, place: str = "recipe") -> Recipe:
    """A checked recipe from nested dictionaries and overrides.

    Raises:
        RecipeError: with every mistake.
    """
    raw = _copy(raw)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"{override!r}: an override has the form key=value, e.g. training.epochs=2")
        try:
            _set(raw, key, yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise RecipeError(f"{override!r}: the value is not valid YAML: {' '.join(str(error).split())}") from error
    if raw.get("paper_exact") is True:
        for key, value in PAPER_EXACT.items():
            _set(raw, key, value, keep=True)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        faults = "\n".join(f"  {_explain(fault)}" for fault in error.errors())
        raise RecipeError(f"{place}: {error.error_count()} mistake{'s' * (error.error_count() > 1)}\n{faults}") from error


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe given by path or by bundled name.

    Raises:
        RecipeError: neither; names the nearest bundled recipe.
    """
    path = Path(source)
    if path.is_file():
        return path
    bundled = bundled_recipes()
    if str(source) in bundled:
        return bundled[str(source)]
    near = difflib.get_close_matches(str(source), bundled, n=1)
    hint = f"did you mean {near[0]}?" if near else f"bundled recipes: {', '.join(sorted(bundled))}"
    raise RecipeError(f"{source}: no such recipe file; {hint}")


def bundled_recipes() -> dict[str, Path]:
    """Name and file of each recipe that comes with the package (or lies in the checkout's `recipes/`)."""
    for folder in (Path(__file__).parent / "recipes", Path(__file__).parents[2] / "recipes"):
        if folder.is_dir():
            return {str(file.relative_to(folder).with_suffix("")): file for file in sorted(folder.rglob("*.yaml"))}
    return {}


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every key written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


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
    if recipe.prompts.init == "text" and not (recipe.prompts.text or "").strip():
        yield "prompts.text: missing; prompts.init=text needs a text"
    if recipe.prompts.init == "file" and not recipe.prompts.file:
        yield "prompts.file: missing; prompts.init=file needs an adapter folder"
    if recipe.losses.contrastive.similarity == "encoder" and not recipe.losses.contrastive.encoder:
        yield "losses.contrastive.encoder: missing; similarity=encoder needs a sentence encoder's folder or hub id"
    if recipe.losses.llm_weight == 0 and recipe.losses.fusion.weight == 0:
        yield "losses.llm_weight: 0 with losses.fusion.weight=0 trains no prompt; set one of them above 0"
    if recipe.training.early_stopping and not recipe.validates:
        yield "training.early_stopping: needs validation dialogues; set data.validation or data.validation_path"


def _explain(fault: ErrorDetails) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _known_keys(Recipe)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6) or [k for k in known if k.split(".")[-1] == key.split(".")[-1]][:1]
        return f"{key}: unknown key{f'; did you mean {near[0]}?' if near else ''}"
    if not key:
        return fault["msg"].removeprefix("Value error, ")
    return f"{key}: {fault['msg'].removeprefix('Value error, ')} (got {fault['input']!r})"


def _known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _set(raw: dict[str, Any], key: str, value: Any, *, keep: bool = False) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = raw.setdefault(parent, {})
        if inner is None:
            inner = raw[parent] = {}
        if not isinstance(inner, dict):
            if keep:
                return
            raise RecipeError(f"{key}: {parent} is {inner!r}, not a section with keys")
        raw = inner
    if not (keep and last in raw):
        raw[last] = value


def _copy(raw: dict[str, Any]) -> dict[str, Any]:
    return {str(key): _copy(value) if isinstance(value, dict) else value for key, value in raw.items()}
