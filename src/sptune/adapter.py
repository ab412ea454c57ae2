"""The adapter on disk: a folder of JSON and safetensors, described in docs/adapter-format.md. No pickle, ever."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sptune import __version__
from sptune.errors import AdapterError
from sptune.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION: Final = 3
READABLE_VERSIONS = (1, 2, 3)  # 1 is 2 without the retriever's input, half_life, rank and keys, 2 is 3 without decoding
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PROMPTS_KEY = "prompts"
CENTRE_KEY = "retriever.centre"
MAX_CONFIG_BYTES = 4 * 2**20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BaseConfig(_Strict):
    """The base model that the prompts were trained on."""

    id: str
    revision: str | None = None
    embedding_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class RetrieverConfig(_Strict):
    """How contexts are scored."""

    kind: Literal["linear", "transformer", "mlp", "identity"] = "linear"
    hidden: int = Field(ge=1, le=65_536)
    activation: Literal["softplus", "relu", "leaky_relu", "none"] = "softplus"
    input: Literal["mean", "recent", "hidden"] = "mean"
    half_life: float = Field(default=8.0, gt=0, le=1e6)
    rank: int | None = Field(default=None, ge=1, le=65_536)
    keys: bool = False


class TemplateConfig(_Strict):
    """How a dialogue becomes tokens."""

    kind: Literal["paper", "chat", "jinja"] = "paper"
    source: str | None = None
    max_length: int = Field(default=512, ge=8)
    reserve: int = Field(default=64, ge=1)
    learn_stop: bool = True

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if (self.kind == "jinja") != (self.source is not None):
            raise ValueError("template.source belongs to, and only to, template.kind jinja")
        return self


class DecodingConfig(_Strict):
    """Who speaks where nothing else is asked for."""

    kind: Literal["top1", "fused", "gated"] = "top1"
    gate_temperature: float = Field(default=0.1, gt=0, le=1e6)


class AdapterConfig(_Strict):
    """`adapter_config.json`. K, L and D are the shape of `prompts` in `adapter_model.safetensors`."""

    peft_type: Literal["SELECTIVE_PROMPT_TUNING"] = "SELECTIVE_PROMPT_TUNING"
    format_version: Literal[1, 2, 3] = FORMAT_VERSION
    sptune_version: str = __version__
    base: BaseConfig
    num_prompts: int = Field(ge=1, le=4096)
    prompt_length: int = Field(ge=0, le=65_536)
    embedding_dim: int = Field(ge=1)
    retriever: RetrieverConfig
    template: TemplateConfig
    stops: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    decoding: DecodingConfig = DecodingConfig()


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in memory.

    Attributes:
        config: everything but the numbers.
        tensors: `prompts` (K, L, D), `retriever.centre` (as wide as what is read), the retriever's map and, where it has them, its
            `retriever.whitener` and `retriever.keys`; all float32.
    """

    config: AdapterConfig
    tensors: dict[str, Tensor]


def save_adapter(folder: str | Path, adapter: Adapter, *, card: str) -> None:
    """Write the adapter folder atomically; an adapter that was there is replaced whole.

    Args:
        folder: the folder.
        adapter: what to write.
        card: text of the model card, README.md.

    Raises:
        StorageError: the folder cannot be written.
        AdapterError: a number is not finite.
    """
    for name, tensor in adapter.tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{name}: holds values that are not finite; the adapter was not saved")

    def write(partial: Path) -> None:
        partial.mkdir()
        text = json.dumps(adapter.config.model_dump(mode="json"), indent=2, ensure_ascii=False)
        (partial / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card, encoding="utf-8")
        tensors = {name: tensor.detach().cpu().float().contiguous().clone() for name, tensor in adapter.tensors.items()}
        (partial / WEIGHTS_NAME).write_bytes(save(tensors, metadata={"format": "pt"}))

    write_atomically(Path(folder), write)


def load_adapter(folder: str | Path) -> Adapter:
    """Read and check an adapter folder. Only its two named files are opened; nothing in them can run or point elsewhere.

    Raises:
        AdapterError: a file is missing, damaged, of an unknown version, has unknown keys, wrong shapes, wrong dtypes or values that are
            not finite.
    """
    path = Path(folder)
    if not path.is_dir():
        raise AdapterError(f"{folder}: no such adapter folder; `sptune train` writes one, as RUN/adapter")
    config = _read_config(path / CONFIG_NAME)
    tensors = _read_tensors(path / WEIGHTS_NAME)
    _check(config, tensors, path)
    return Adapter(config, tensors)


def _regular(path: Path) -> Path:
    """`path`, when it is a file that stands in its own folder (or a link of a hub cache to a plain file)."""
    if not path.is_file():
        raise AdapterError(f"{path}: missing; an adapter folder holds {CONFIG_NAME} and {WEIGHTS_NAME}")
    return path


def _read_config(path: Path) -> AdapterConfig:
    if _regular(path).stat().st_size > MAX_CONFIG_BYTES:
        raise AdapterError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is no adapter configuration")
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        raise AdapterError(f"{path}: not valid JSON ({error}); the file is damaged, get the adapter again") from error
    if not isinstance(raw, dict):
        raise AdapterError(f"{path}: must hold a JSON object")
    version = raw.get("format_version")
    if type(version) is not int or version not in READABLE_VERSIONS:
        raise AdapterError(
            f"{path}: format_version is {version!r}; this sptune ({__version__}) reads 1 to {FORMAT_VERSION}; update sptune"
        )
    try:
        return AdapterConfig.model_validate_json(text).model_copy(update={"format_version": FORMAT_VERSION})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise AdapterError(f"{path}: {faults}") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(_regular(path), framework="pt") as file:
            names = list(file.keys())
            wrong = [name for name in names if file.get_slice(name).get_dtype() != "F32"]
            if wrong:
                raise AdapterError(
                    f"{path}: {wrong[0]} is {file.get_slice(wrong[0]).get_dtype()}; adapters hold F32 only"
                )
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: not a safetensors file, or cut short ({error}); get the adapter again") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{path}: {name} holds values that are not finite; the adapter is damaged")
    return tensors


def _check(config: AdapterConfig, tensors: dict[str, Tensor], path: Path) -> None:
    wanted: dict[str, tuple[int, ...]] = {PROMPTS_KEY: (config.num_prompts, config.prompt_length, config.embedding_dim)}
    for name in (PROMPTS_KEY, CENTRE_KEY):
        if name not in tensors:
            raise AdapterError(f"{path / WEIGHTS_NAME}: {name} is missing")
    if config.retriever.input != "hidden":  # else its width is that of the base model's hidden states
        wanted[CENTRE_KEY] = (config.embedding_dim,)
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise AdapterError(
                f"{path / WEIGHTS_NAME}: {name} has shape {tuple(tensors[name].shape)}, {CONFIG_NAME} says {shape}"
            )
    unknown = [name for name in tensors if name != PROMPTS_KEY and not name.startswith("retriever.")]
    if unknown:
        raise AdapterError(f"{path / WEIGHTS_NAME}: unknown tensor {unknown[0]}")
