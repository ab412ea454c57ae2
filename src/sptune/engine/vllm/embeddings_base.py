"""The base model without its layers: embedding table, tokenizer and configuration, which is all that choosing a prompt needs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sptune.errors import ModelError
from sptune.model.backbone import Backbone
from sptune.model.load import Dtype, LoadedBase, check_tokenizer, load_errors, locate, pick_dtype, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class EmbeddingsBase(Backbone):
    """A `Backbone` that embeds and knows its configuration, and cannot run: the layers are somewhere else, in vLLM.

    Args:
        model: on the meta device, its input embedding layer alone with numbers.
        base: see `Backbone`.
        revision: see `Backbone`.
    """

    has_layers = False

    def hidden(self, inputs_embeds: Tensor) -> Tensor:
        """Not here.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.base}: only the embedding table is loaded; nothing can be run here")

    def _probe(self) -> None:
        """Nothing to run here: the engine compares embeddings and token ids where the layers are."""


def load_embeddings(base: str, *, revision: str | None = None, dtype: Dtype = "auto") -> LoadedBase:
    """A base model's embedding layer, tokenizer and configuration, on the CPU. No layer is read.

    Args:
        base: see `load_base`; of a hub id, only the file that holds the table is fetched.
        revision: hub revision.
        dtype: of the embeddings; `auto` is what the table is saved in.

    Raises:
        ModelError: not found, damaged, not saved as safetensors, or its input embeddings are more than a table.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    source = locate(base)
    with quiet(), load_errors(base):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        config = AutoConfig.from_pretrained(source, revision=revision)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        if _file(source, "generation_config.json", revision) is not None:
            model.generation_config = GenerationConfig.from_pretrained(source, revision=revision)
        table = _read_table(source, _names(model), revision=revision)
        _fill(model, table if dtype == "auto" else table.to(pick_dtype(dtype, table.device)))
    check_tokenizer(base, tokenizer, len(table))
    return LoadedBase(EmbeddingsBase(model, base=base, revision=revision), tokenizer)


def _names(model: PreTrainedModel) -> list[str]:
    """What a checkpoint may call the embedding table: its name in the model or in the body, or the output layer's where they are tied."""
    layers = [model.get_input_embeddings()]
    if model.config.get_text_config().tie_word_embeddings:
        layers.append(model.get_output_embeddings())
    own = [f"{name}.weight" for layer in layers for name, module in model.named_modules() if module is layer]
    prefix = f"{model.base_model_prefix}."
    return [*own, *(name.removeprefix(prefix) for name in own)]


def _read_table(source: str, names: list[str], *, revision: str | None) -> Tensor:
    """(V, D) the embedding table, from the one file that holds it."""
    from safetensors import safe_open

    index = _file(source, _INDEX, revision)
    if index is None:
        path = _file(source, _WHOLE, revision)
        if path is None:
            raise ModelError("no model.safetensors; save the model with save_pretrained")
        with safe_open(path, framework="pt") as file:
            return _floating(file.get_tensor(_pick(names, file.keys())))
    with open(index, encoding="utf-8") as text:
        files: dict[str, str] = json.load(text)["weight_map"]
    name = _pick(names, files)
    path = _file(source, files[name], revision)
    if path is None:
        raise ModelError(f"{files[name]} is missing")
    with safe_open(path, framework="pt") as file:
        return _floating(file.get_tensor(name))


def _pick(names: Iterable[str], there: Iterable[str]) -> str:
    """The first of `names` that is there, else the one tensor that ends like the first: models of several parts put more in front."""
    there = list(there)
    for name in names:
        if name in there:
            return name
    ending = ".".join(next(iter(names)).split(".")[-2:])
    matching = [name for name in there if name.endswith(f".{ending}")]
    if len(matching) != 1:
        raise ModelError(f"no word embedding table among its tensors (looked for {', '.join(names)})")
    return matching[0]


def _floating(table: Tensor) -> Tensor:
    if table.dtype not in {torch.float32, torch.bfloat16, torch.float16}:
        raise ModelError(
            f"its embedding table is saved as {table.dtype}; one in float32, bfloat16 or float16 is needed"
        )
    return table


def _fill(model: PreTrainedModel, table: Tensor) -> None:
    """Give the embedding layer its table, and the numbers that the layer computes itself (Gemma's factor)."""
    layer: Any = model.get_input_embeddings()
    more = [name for name, _ in layer.named_parameters() if name != "weight"]
    if not isinstance(layer, nn.Embedding) or more or layer.weight.shape != table.shape:
        held = f"{type(layer).__name__} {tuple(layer.weight.shape)}" + "".join(f" + {name}" for name in more)
        raise ModelError(
            f"its input embeddings are more than a table (layer {held}, table {tuple(table.shape)}); use --engine local"
        )
    for name, buffer in layer.named_buffers():
        setattr(layer, name, torch.full(buffer.shape, torch.nan, dtype=buffer.dtype))
    model._init_weights(layer)  # the weight is still on the meta device and stays as it is
    if any(buffer.isnan().any() for buffer in layer.buffers()):
        raise ModelError(f"its embedding layer {type(layer).__name__} holds numbers of its own; use --engine local")
    layer.weight = nn.Parameter(table, requires_grad=False)


def _file(source: str, name: str, revision: str | None) -> str | None:
    """The path of a model's file, fetched from the hub where `source` is a hub id; None where there is none of that name."""
    from transformers.utils.hub import cached_file

    path: str | None = cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=True,
    )
    return path
