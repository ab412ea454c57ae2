"""Full fine-tuning: every weight of the model is trained, word embeddings and output layer included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sptune.baselines.method import Fit
from sptune.baselines.own_backbone import OwnBackbone, own_base
from sptune.baselines.tuning import RateGroup, TunedMethod, Tuning, trainable
from sptune.errors import AdapterError, ModelError
from sptune.files import write_atomically
from sptune.model.load import LoadedBase, load_base, quiet

if TYPE_CHECKING:
    from sptune.config import Recipe
    from sptune.model.spt import SPTModel

FOLDER = "model"
CHUNK = 256  # target positions whose logits exist at one time


class TrainableBackbone(OwnBackbone):
    """A model whose every weight has a gradient.

    Weights are float32, so that small steps are not lost. Where the base computes in bfloat16, so does this one, by autocast.

    Args:
        base: the model to copy.
    """

    def __init__(self, base: LoadedBase) -> None:
        copy = own_base(base, "full").backbone
        super().__init__(copy.model.float(), base=copy.base, revision=copy.revision)
        self._half = copy.device.type if base.backbone.dtype == torch.bfloat16 else None
        self._start = super().embedding_hash()
        self.model.requires_grad_(True)

    def embedding_hash(self) -> str:
        """That of the model it started from: which base a checkpoint belongs to."""
        return self._start if hasattr(self, "_start") else super().embedding_hash()

    def embed(self, input_ids: Tensor) -> Tensor:
        """Word embeddings of (B, T) ids: (B, T, D), with gradient."""
        embeddings: Tensor = self.model.get_input_embeddings()(input_ids)
        return embeddings

    def hidden(self, inputs_embeds: Tensor) -> Tensor:
        """Last hidden states (B, T, H) of (B, T, D), as `Backbone.hidden`."""
        with self._autocast():
            return super().hidden(inputs_embeds)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., H)."""
        with self._autocast():
            return super().head(hidden)

    def target_logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities (...) in nats of `targets` (...) at hidden states (..., H), differentiable in the output layer too.

        Logits are computed again in the backward pass, so that no more than `CHUNK` rows of them exist.
        """
        rows, ids = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
        parts = [
            checkpoint(self._nll, rows[i : i + CHUNK], ids[i : i + CHUNK], use_reentrant=False)
            for i in range(0, max(1, len(ids)), CHUNK)
        ]
        return -torch.cat(parts).view(targets.shape)

    def _nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.head(hidden).float(), targets, reduction="none")

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        half = getattr(self, "_half", None)
        with torch.autocast(half or "cpu", dtype=torch.bfloat16, enabled=half is not None):
            yield


class FullFineTuning(TunedMethod):
    """Kind `full`. Kept as a whole transformers model in the base's number format, so in bfloat16 with its rounding."""

    default_rate = 5e-5

    def _tuning(self, fit: Fit) -> Tuning:
        recipe = fit.recipe
        own = LoadedBase(TrainableBackbone(self.base), self.base.tokenizer)
        if recipe.model.gradient_checkpointing:
            own.backbone.checkpoint_activations()
        model = self.build.make_bare_model(recipe, base=own)
        group = RateGroup(trainable(own.backbone), recipe.training.prompt_lr)
        return Tuning(model, (group,), lambda folder: self._keep(own, folder))

    def _recipe(self, folder: Path, *, seed: int, rate: float | None) -> Recipe:
        recipe = super()._recipe(folder, seed=seed, rate=rate)
        # a checkpoint holds all weights and two moments of each: one beside the best is enough
        training = recipe.training.model_copy(update={"keep_checkpoints": 1})
        return recipe.model_copy(update={"training": training})

    def _keep(self, own: LoadedBase, folder: Path) -> None:
        model = own.backbone.model.to(self.base.backbone.dtype)

        def write(partial: Path) -> None:
            with quiet():
                model.save_pretrained(partial)
            own.tokenizer.save_pretrained(partial)

        write_atomically(folder / FOLDER, write)

    def _load(self, folder: Path) -> SPTModel:
        like = self.base.backbone
        dtype = str(like.dtype).removeprefix("torch.")
        try:
            tuned = load_base(str(folder / FOLDER), dtype=dtype, device=str(like.device))  # type: ignore[arg-type]
        except ModelError as error:
            raise AdapterError(f"{folder / FOLDER}: cannot be loaded ({error}); fit the method again") from error
        tuned.backbone.base = f"{like.base}+full"
        return self.build.make_bare_model(self.recipe, base=tuned)
