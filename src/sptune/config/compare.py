"""The settings of a comparison: which methods, on which data, with which seeds, and how their learning rates are tuned (docs/compare.md)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sptune.config.sections import Positive, Rate, Section

Kind = Literal["zero_shot", "few_shot", "rag", "full", "lora", "prefix", "p_tuning", "spt", "spt_lora"]

# What a kind has beside the keys that every method has.
KIND_KEYS: dict[str, tuple[str, ...]] = {
    "zero_shot": ("instruction",),
    "few_shot": ("instruction", "examples"),
    "rag": ("instruction", "examples", "rag"),
    "full": (),
    "lora": ("rank", "alpha", "dropout", "targets"),
    "prefix": ("length",),
    "p_tuning": ("length", "encoder", "encoder_hidden"),
    "spt": ("instruction", "examples", "rag"),
    "spt_lora": ("rank", "alpha", "dropout", "targets", "joint", "lora_lr", "lora_share"),
}
COMMON_KEYS = ("kind", "recipe", "set", "rates", "grid", "seeds", "decodings")
UNTRAINED = ("zero_shot", "few_shot", "rag")
RATE_KEY = "training.prompt_lr"
RATED_BY_RECIPE = ("spt", "spt_lora")  # trained at the recipe's rate where they have none of their own

TOP1, RERANK = "top1", "rerank"
ONE_PROMPT = (TOP1, RERANK)  # decodings that mean something where there is no choice of prompts
Control = Literal["random", "best-single"]  # other choices of prompts, to tell what the retriever's is worth
CONTROLS: tuple[Control, ...] = get_args(Control)
METHOD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def flat_keys(value: Any) -> Any:
    """Nested sections as dotted keys; `{training: {epochs: 1}}` and `{training.epochs: 1}` are the same.

    Raises:
        ValueError: a key stands there in both forms.

    >>> flat_keys({"training": {"epochs": 1}, "seed": 2})
    {'training.epochs': 1, 'seed': 2}
    """
    if not isinstance(value, dict):
        return {} if value is None else value
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        for name, one in flat_keys(inner).items() if isinstance(inner, dict) else (("", inner),):
            dotted = f"{key}.{name}".removesuffix(".")
            if dotted in flat:
                raise ValueError(f"{dotted} is there twice")
            flat[dotted] = one
    return flat


Changes = Annotated[dict[str, Any], BeforeValidator(flat_keys)]
Grid = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], BeforeValidator(flat_keys)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]


class TuningSettings(Section):
    """How each method's learning rate is chosen: the lowest validation perplexity after a short training."""

    dialogues: int = Field(200, ge=1, description="train on the first so many training dialogues")
    epochs: Positive = Field(1.0, description="passes over them")
    seed: Seed = Field(0, description="of these trainings")
    unequal: bool = Field(False, strict=True, description="allow methods to try different numbers of rates")


class MethodSettings(Section):
    """A method. `recipe`, `set`, `grid` and the seed are worked into the recipe that it is trained with."""

    kind: Kind = Field(description="what it is")
    recipe: str | None = Field(
        None, description="a training recipe whose prompts, retriever, losses and training replace the shared ones"
    )
    set: Changes = Field({}, description="changes to the recipe, by dotted key")
    rates: tuple[Rate, ...] = Field((), description="learning rates to try; of the prompts where it is SPT")
    grid: Grid = Field({}, description="dotted key of the recipe, or key of the method -> values; every combination")
    seeds: Seeds | None = Field(None, description="in place of the comparison's; null is those")
    decodings: tuple[str, ...] | None = Field(None, description="in place of the comparison's; null is those")
    instruction: str | None = Field(None, description="text before the context; null is the kind's own")
    examples: int = Field(3, ge=1, le=64, description="exchanges of training dialogues that are shown in the context")
    rag: Literal["bm25", "dense"] | None = Field(
        None, description="how they are retrieved; null is bm25 for kind rag and no retrieval for spt"
    )
    rank: int = Field(8, ge=1, le=1024, description="of LoRA")
    alpha: Positive = Field(16.0, description="of LoRA; the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of LoRA's input in training")
    targets: tuple[str, ...] | None = Field(None, description="names of the layers with LoRA; null is all linear ones")
    joint: bool = Field(False, strict=True, description="train LoRA and prompts together; else LoRA first, then frozen")
    lora_lr: Rate | None = Field(None, description="of LoRA under SPT; null is the rate that is tried")
    lora_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the training dialogues, and of max_steps, for LoRA where it is trained first",
    )
    length: int = Field(8, ge=1, le=1024, description="virtual tokens of prefix tuning and P-tuning")
    encoder: Literal["mlp", "lstm"] = Field("mlp", description="of P-tuning's virtual tokens")
    encoder_hidden: int | None = Field(None, ge=1, le=65_536, description="its width; null is the embedding width")

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.kind not in UNTRAINED

    @property
    def own_keys(self) -> tuple[str, ...]:
        """The keys that this kind has beside the common ones."""
        return KIND_KEYS[self.kind]

    @model_serializer(mode="wrap")
    def _only_own_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        known = (*COMMON_KEYS, *self.own_keys)
        return {key: value for key, value in handler(self).items() if key in known}


class ComparisonSettings(Section):
    """A whole comparison."""

    name: str = Field(
        "compare", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="letters, digits, dot, dash, underscore"
    )
    output: str | None = Field(None, description="folder of the comparison; null is runs/compare/NAME")
    recipe: str = Field("quickstart", min_length=1, description="the training recipe that all methods share")
    set: Changes = Field({}, description="changes to it, by dotted key")
    seeds: Seeds = Field((0, 1, 2), description="each method is trained with each")
    reference: str | None = Field(None, description="the method that gains and significance are against")
    tuning: TuningSettings = Field(TuningSettings(), description="how learning rates are chosen, see below")
    methods: dict[str, MethodSettings] = Field({}, description="name -> method, see below")
    controls: tuple[Control, ...] = Field(
        CONTROLS,
        description="where K > 1, also under these: a prompt drawn anew for each turn, and the one that is best on validation",
    )
    decodings: tuple[str, ...] = Field(
        (), description="also under these values of evaluation.decoding: fused and gated (where K > 1), rerank"
    )
    ranking: tuple[str, ...] = Field(
        (TOP1,),
        description="decodings whose hits@k are measured (minutes each); rerank ranks by mutual information",
    )
    generation: tuple[str, ...] | None = Field(None, description="decodings whose replies are measured; null is all")
    probe: Literal["validation", "train", "none"] = Field(
        "validation", description="where K > 1, turns that the offline probe learns from"
    )

    @model_validator(mode="after")
    def _combinations(self) -> ComparisonSettings:
        faults = [fault for check in _CHECKS for fault in check(self)]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def folder(self) -> Path:
        """The comparison's folder."""
        return Path(self.output).expanduser() if self.output else Path("runs") / "compare" / self.name

    def decodings_of(self, method: MethodSettings) -> tuple[str, ...]:
        """The decodings of a method: top-1, controls, further ones. With one prompt those in `ONE_PROMPT` alone are measured."""
        further = self.decodings if method.decodings is None else method.decodings
        return tuple(dict.fromkeys((TOP1, *self.controls, *further)))

    def seeds_of(self, method: MethodSettings) -> tuple[int, ...]:
        """The seeds of a method."""
        return self.seeds if method.seeds is None else method.seeds


def _methods(settings: ComparisonSettings) -> Iterator[str]:
    """Names, and keys that a method's kind does not have."""
    if not settings.methods:
        yield "methods: none; name at least one, e.g. `methods: {pt: {kind: spt, set: {prompts.count: 1}}}`"
    for name, method in settings.methods.items():
        if not METHOD_NAME.fullmatch(name):
            yield f"methods: {name!r} is no name; use letters, digits, dash and underscore"
        for key in method.model_fields_set - {*COMMON_KEYS, *method.own_keys}:
            has = f"it has {', '.join(method.own_keys)}" if method.own_keys else "it has none of its own"
            yield f"methods.{name}.{key}: not a key of kind {method.kind}; {has}"
        if method.rates and not method.trains:
            yield f"methods.{name}.rates: kind {method.kind} trains nothing; leave it out"
        if RATE_KEY in method.set.keys() | method.grid.keys() and (method.rates or method.kind not in RATED_BY_RECIPE):
            yield f"methods.{name}: {RATE_KEY} in `set` or `grid` has no effect here; give the learning rates as `rates`"
        for key in sorted(method.set.keys() | method.grid.keys()):
            if _is_idle(key, method):
                yield f"methods.{name}: {key} in `set` or `grid` has no effect on kind {method.kind}; leave it out"
        if len(set(method.rates)) < len(method.rates):
            yield f"methods.{name}.rates: a rate is there twice"
        for key in method.grid.keys() & method.set.keys():
            yield f"methods.{name}.grid.{key}: is in `set` too; leave it in one of them"
        for key in method.grid.keys() & {*COMMON_KEYS, "seed"}:
            yield f"methods.{name}.grid.{key}: cannot be varied; write several methods"


def _is_idle(key: str, method: MethodSettings) -> bool:
    """Whether nothing of a method depends on a key of the recipe."""
    section = key.partition(".")[0]
    if method.kind in RATED_BY_RECIPE or key in {RATE_KEY, "losses.gate_temperature"}:
        return False
    return section in {"prompts", "retriever", "losses"} or (section == "training" and not method.trains)


def _seeds(settings: ComparisonSettings) -> Iterator[str]:
    parts: dict[str, ComparisonSettings | MethodSettings] = {"": settings}
    parts |= {f"methods.{name}.": method for name, method in settings.methods.items()}
    for place, part in parts.items():
        if part.seeds and len(set(part.seeds)) < len(part.seeds):
            yield f"{place}seeds: a seed is there twice"
        if "seed" in part.set:
            yield f"{place}set.seed: each method is trained with every one of `seeds`; set those"


def _reference(settings: ComparisonSettings) -> Iterator[str]:
    if settings.reference is not None and settings.reference not in settings.methods:
        yield f"reference: {settings.reference!r} is none of the methods {', '.join(settings.methods)}"


def _effort(settings: ComparisonSettings) -> Iterator[str]:
    """The same number of trials for all that is trained."""
    tried = {name: len(method.rates) for name, method in settings.methods.items() if method.trains}
    if not settings.tuning.unequal and len(set(tried.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in tried.items())
        yield (
            f"methods: they try different numbers of learning rates ({listed}), so their tuning effort differs; "
            "give each as many `rates`, or set tuning.unequal=true"
        )


def _decodings(settings: ComparisonSettings) -> Iterator[str]:
    known = {name for method in settings.methods.values() for name in settings.decodings_of(method)} | {TOP1}
    for key, names in (("ranking", settings.ranking), ("generation", settings.generation or ())):
        for name in names:
            if name not in known:
                yield f"{key}: {name!r} is none of the decodings {', '.join(sorted(known))}"
    asked = chain(settings.decodings, *(method.decodings or () for method in settings.methods.values()))
    for name in sorted({name for name in asked if name in (TOP1, *CONTROLS)}):
        yield f"decodings: {name} is {'always there' if name == TOP1 else 'a control; name it in `controls`'}"


_CHECKS: tuple[Callable[[ComparisonSettings], Iterator[str]], ...] = (
    _methods,
    _seeds,
    _reference,
    _effort,
    _decodings,
)
