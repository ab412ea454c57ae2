"""An adapter in memory, ready for requests: it shares the base model with all others."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sptune.adapter import PROMPTS_KEY, WEIGHTS_NAME, AdapterConfig, load_adapter
from sptune.data.dialogue import Dialogue, Turn
from sptune.data.encoder import DialogueEncoder
from sptune.data.template import TemplateKind, default_stops, make_template
from sptune.errors import AdapterError, SptError
from sptune.model import saved
from sptune.model.hub import local_folder
from sptune.model.prompts import SoftPrompts
from sptune.model.retriever import Contexts, Retriever
from sptune.model.spt import SPTModel

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.model.load import LoadedBase

MAX_WEIGHTS_BYTES = 2**30
_BARE_LENGTH = 2048  # tokens of a bare model's context where the model names no window
_TRIAL = Dialogue("trial", ("I keep bees.",), (Turn("Hello!", "Hello."), Turn("How are you?")))


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A model to answer with.

    Attributes:
        model: on the shared base.
        keys: (K, hidden) g(p_k), what contexts are compared with: they do not change, so they are computed once.
        config: what the adapter's folder says; None for the bare base model.
    """

    model: SPTModel
    keys: Tensor
    config: AdapterConfig | None

    @torch.no_grad()
    def scores(self, ids: Sequence[int]) -> Tensor:
        """Scores (1, K) of one context (paper, section 3.2); the language model runs only where the retriever reads its hidden states."""
        model = self.model
        tokens = torch.tensor([ids], device=model.backbone.device)
        row, length = torch.zeros_like(tokens[:, 0]), torch.full_like(tokens[:, 0], len(ids))
        contexts: Contexts = model.contexts(model.backbone.embed(tokens), row, length)
        return model.retriever.score(model.retriever.encode_contexts(contexts), self.keys)


class AdapterLoader:
    """Loads adapters for one base model. Safe to use from several threads.

    Args:
        base: the base model that all adapters share.
    """

    def __init__(self, base: LoadedBase) -> None:
        self.base = base
        self._digest = base.backbone.embedding_hash()

    def load(self, path: str | Path) -> LoadedAdapter:
        """Read, check and try an adapter.

        Args:
            path: an adapter folder, a run folder, or a hub id `owner/name`.

        Raises:
            AdapterError: missing, damaged, too large, made for another base model, or one that cannot encode and score a short dialogue.
        """
        try:
            return self._load(path)
        except AdapterError:
            raise
        except Exception as error:  # a hostile file can fail in any library; the server must go on
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise AdapterError(f"{path}: cannot be loaded ({reason}); get the adapter again") from error
        finally:
            _give_memory_back()

    def bare(self) -> LoadedAdapter:
        """The base model alone: no virtual tokens, its own chat template where it has one, else the paper's."""
        base, backbone = self.base, self.base.backbone
        kind: TemplateKind = "chat" if getattr(base.tokenizer, "chat_template", None) else "paper"
        encoder = DialogueEncoder(
            base.tokenizer,
            make_template(kind, tokenizer=base.tokenizer),
            max_length=backbone.window or _BARE_LENGTH,
            window=backbone.window,
        )
        prompts = SoftPrompts(torch.zeros(1, 0, backbone.embedding_dim))
        retriever = Retriever("identity", dim=backbone.embedding_dim)
        return _ready(SPTModel(backbone, prompts, retriever, encoder, stops=default_stops(kind)), None)

    def _load(self, path: str | Path) -> LoadedAdapter:
        folder = local_folder(path)
        weights = folder / WEIGHTS_NAME
        if weights.is_file() and weights.stat().st_size > MAX_WEIGHTS_BYTES:
            raise AdapterError(f"{weights}: larger than {MAX_WEIGHTS_BYTES} bytes; this is no adapter to serve")
        adapter = load_adapter(folder)
        config, tensors = adapter.config, adapter.tensors
        self._check_base(path, config)
        self._check_reading(path, config)
        retriever = saved.make_retriever(config, tensors, base=self.base)
        own = {name.removeprefix("retriever."): tensor for name, tensor in tensors.items() if name != PROMPTS_KEY}
        retriever.load_state_dict(own)
        prompts = SoftPrompts(tensors[PROMPTS_KEY])
        encoder, speakers = saved.make_encoder(config, self.base), saved.speakers_of(config)
        model = SPTModel(self.base.backbone, prompts, retriever, encoder, stops=config.stops, speakers=speakers)
        return _tried(_ready(model, config), path)

    def _check_base(self, path: str | Path, config: AdapterConfig) -> None:
        backbone = self.base.backbone
        if config.base.embedding_sha256 != self._digest or config.embedding_dim != backbone.embedding_dim:
            raise AdapterError(
                f"{path}: trained on {config.base.id!r}, whose embedding table differs from that of {backbone.base!r}, which is served; "
                "serve it on the base model it was trained on"
            )

    def _check_reading(self, path: str | Path, config: AdapterConfig) -> None:
        if config.retriever.input == "hidden" and not self.base.backbone.has_layers:
            raise AdapterError(
                f"{path}: its retriever reads the model's hidden states, and this engine holds no layers to compute them; "
                "serve it with --engine local"
            )


def _give_memory_back() -> None:
    """Return freed memory to the system: what a load takes for a moment would lie between the adapters that stay (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


@torch.no_grad()
def _ready(model: SPTModel, config: AdapterConfig | None) -> LoadedAdapter:
    model.requires_grad_(False).eval()
    return LoadedAdapter(model, model.retriever.encode_prompts(model.prompts.embeddings), config)


def _tried(adapter: LoadedAdapter, path: str | Path) -> LoadedAdapter:
    """`adapter`, when it can encode and score a short dialogue: a template that fails is found now, not by a user."""
    try:
        scores = adapter.scores(adapter.model.encoder.encode_context(_TRIAL).input_ids)
    except SptError as error:
        raise AdapterError(f"{path}: fails on a short dialogue ({error}); get the adapter again") from error
    if not bool(torch.isfinite(scores).all()):
        raise AdapterError(
            f"{path}: scores of a short dialogue are not finite; its numbers are too large, get the adapter again"
        )
    return adapter
