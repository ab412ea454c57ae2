"""Prefix tuning (Li and Liang 2021, arXiv 2101.00190), by PEFT: trained keys and values in front of every layer's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sptune.baselines.method import Fit
from sptune.baselines.own_backbone import OwnBackbone, own_base
from sptune.baselines.peft_files import load_peft, make_peft, peft_package, save_peft
from sptune.baselines.tuning import RateGroup, TunedMethod, Tuning, trainable
from sptune.errors import ModelError, RecipeError
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.seeding import seeded

if TYPE_CHECKING:
    from sptune.model.spt import SPTModel

FOLDER = "prefix"


class PrefixTuning(TunedMethod):
    """Kind `prefix`. It starts as the keys and values of L sampled vocabulary rows: where prompt tuning starts too."""

    default_rate = 1e-2

    def _tuning(self, fit: Fit) -> Tuning:
        if fit.recipe.model.gradient_checkpointing:
            raise RecipeError(
                "model.gradient_checkpointing: layers that compute again take no keys and values from outside; "
                "leave it out for prefix tuning"
            )
        own = own_base(self.base, FOLDER)
        package = peft_package()
        config = package.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.settings.length)
        with seeded(fit.recipe.seed):
            peft = make_peft(own.backbone, config)
        cache = sampled_cache(own.backbone, self.settings.length, seed=fit.recipe.seed)
        package.initialize_kv_prefix_from_past_key_values(peft, past_key_values=cache)
        prefixed = LoadedBase(PrefixedBackbone(own.backbone, peft), own.tokenizer)
        model = self.build.make_bare_model(fit.recipe, base=prefixed)
        group = RateGroup(trainable(prefixed.backbone), fit.recipe.training.prompt_lr)
        return Tuning(model, (group,), lambda folder: save_peft(peft, folder / FOLDER))

    def _load(self, folder: Path) -> SPTModel:
        own = own_base(self.base, FOLDER)
        peft = load_peft(own.backbone, folder / FOLDER)
        prefixed = LoadedBase(PrefixedBackbone(own.backbone, peft), own.tokenizer)
        return self.build.make_bare_model(self.recipe, base=prefixed)


class PrefixedBackbone(OwnBackbone):
    """A base model behind trained keys and values of L places.

    The places are put in front of the cache as the model's body is entered and taken off as it is left, so that to all outside,
    generation and ranking included, the cache holds the tokens that were given and no others. Tokens stand at positions from L on.

    Args:
        backbone: a copy of the base model.
        peft: PEFT's model around it, whose prompt encoder makes the keys and values.

    Raises:
        ModelError: a model whose layers do not all keep every key and value (sliding windows, recurrent states).
    """

    def __init__(self, backbone: Backbone, peft: Any) -> None:
        super().__init__(backbone.model, base=backbone.base, revision=backbone.revision)
        _check_cache(backbone)
        self.encoder = peft.prompt_encoder["default"].requires_grad_(not peft.peft_config["default"].inference_mode)
        self._length = int(peft.peft_config["default"].num_virtual_tokens)
        self._keys_values = peft.get_prompt
        body = self.model.get_decoder()  # the one that both the whole model and its body run through (OPT has two)
        body.register_forward_pre_hook(self._enter, with_kwargs=True)
        body.register_forward_hook(self._leave, with_kwargs=True)

    @property
    def window(self) -> int | None:
        """The most tokens the model can take beside the prefix."""
        window = super().window
        return None if window is None else window - self._length

    def _enter(
        self, body: Any, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = (*arguments[:1], named.get("input_ids"), named.get("inputs_embeds"))  # one of them is there
        prefix = self._keys_values(next(len(tokens) for tokens in given if tokens is not None))
        named = {**named, "past_key_values": _prepended(prefix, named.get("past_key_values"))}
        if (mask := named.get("attention_mask")) is not None:
            named["attention_mask"] = torch.cat([self._visible(mask), mask], dim=-1)
        if (positions := named.get("position_ids")) is not None:
            named["position_ids"] = positions + self._length
        return arguments, named

    def _leave(self, body: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        for layer in named["past_key_values"].layers:
            layer.keys, layer.values = layer.keys[:, :, self._length :], layer.values[:, :, self._length :]

    def _visible(self, mask: Tensor) -> Tensor:
        """The prefix's part of a mask (B, T), where 1 is seen, or (B, 1, T, S), where True or 0.0 is."""
        wide = (*mask.shape[:-1], self._length)
        additive = mask.is_floating_point()
        return mask.new_zeros(wide) if additive else mask.new_ones(wide)


def _prepended(prefix: Any, cache: Any) -> Any:
    """`cache` itself, since whoever gave it finds the new tokens in it, with `prefix` in front; `prefix` where there is none."""
    for number, layer in enumerate(prefix.layers if cache is not None else ()):
        own = cache.layers[number] if number < len(cache.layers) else None
        if own is not None and own.get_seq_length():
            own.keys = torch.cat([layer.keys, own.keys], dim=2)
            own.values = torch.cat([layer.values, own.values], dim=2)
        else:
            cache.update(layer.keys, layer.values, number)
    return prefix if cache is None else cache


@torch.no_grad()
def sampled_cache(backbone: Backbone, length: int, *, seed: int) -> Any:
    """The key-value cache of `length` different vocabulary rows."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randperm(backbone.embedding_table.shape[0], generator=generator)[:length]
    embeddings = backbone.embed(ids[None].to(backbone.device))
    return backbone.body(inputs_embeds=embeddings, use_cache=True, return_dict=True).past_key_values


def _check_cache(backbone: Backbone) -> None:
    from transformers.cache_utils import DynamicCache, DynamicLayer

    kinds = {type(layer) for layer in DynamicCache(config=backbone.config).layers}
    if kinds != {DynamicLayer}:
        listed = ", ".join(sorted(kind.__name__ for kind in kinds - {DynamicLayer}))
        raise ModelError(
            f"{backbone.base}: its cache has {listed}; prefix tuning needs layers that attend to every position"
        )
