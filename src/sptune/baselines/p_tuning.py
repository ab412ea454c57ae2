"""P-tuning (Liu et al. 2021, arXiv 2103.10385), with PEFT's prompt encoder: virtual tokens that a small network makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sptune.baselines.method import Fit
from sptune.baselines.peft_files import peft_package
from sptune.baselines.tuning import RateGroup, TunedMethod, Tuning, trainable
from sptune.model.prompts import SoftPrompts
from sptune.model.seeding import seeded
from sptune.model.spt import SPTModel

if TYPE_CHECKING:
    from sptune.config.compare import MethodSettings

FOLDER = "adapter"


class PTuning(TunedMethod):
    """Kind `p_tuning`. Once trained, the network has done its work: what is kept is the one soft prompt that it makes (K = 1)."""

    default_rate = 1e-3

    def _tuning(self, fit: Fit) -> Tuning:
        recipe = fit.recipe
        bare = self.build.make_bare_model(recipe, base=self.base)
        if recipe.model.gradient_checkpointing:
            bare.backbone.checkpoint_activations()
        with seeded(recipe.seed):
            prompts = EncodedPrompt(self.settings, dim=bare.backbone.embedding_dim)
        bare.encoder.prompt_length = prompts.length
        model = SPTModel(bare.backbone, prompts, bare.retriever, bare.encoder, stops=bare.stops)
        group = RateGroup(trainable(prompts), recipe.training.prompt_lr)
        return Tuning(model, (group,), lambda folder: model.save_pretrained(folder / FOLDER))

    def _load(self, folder: Path) -> SPTModel:
        return SPTModel.from_pretrained(folder / FOLDER, base=self.base)


class EncodedPrompt(SoftPrompts):
    """One soft prompt, made by PEFT's prompt encoder.

    Args:
        settings: length, kind and width of the encoder.
        dim: D, the embedding width.
    """

    def __init__(self, settings: MethodSettings, *, dim: int) -> None:
        nn.Module.__init__(self)
        package = peft_package()
        self.encoder = package.PromptEncoder(
            package.PromptEncoderConfig(
                num_virtual_tokens=settings.length,
                token_dim=dim,
                num_transformer_submodules=1,
                encoder_reparameterization_type=settings.encoder.upper(),
                encoder_hidden_size=settings.encoder_hidden or dim,
            )
        )
        self.register_buffer("places", torch.arange(settings.length)[None], persistent=False)

    places: Tensor  # (1, L)

    @property
    def embeddings(self) -> Tensor:  # type: ignore[override]
        """(1, L, D) what the encoder makes now."""
        made: Tensor = self.encoder(self.places)
        return made
