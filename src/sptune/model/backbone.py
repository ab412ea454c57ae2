"""The frozen language model, driven by input embeddings: embed, run, and read target log-probabilities."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from sptune.errors import ModelError
from sptune.model.causal_attention import use_causal_attention
from sptune.model.target_logprobs import target_logprobs, weighted_logits_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Figure = TypeVar("Figure")

_CHUNK = 4096  # rows of the vocabulary that are in float32 at a time

# what configurations call the longest sequence
_WINDOWS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")


class Backbone(nn.Module):
    """A frozen Hugging Face causal language model that runs on `inputs_embeds`.

    On construction a probe compares logits computed from ids, from embeddings, and from body and head apart; a model for which they differ
    needs more than input embeddings and is refused. So is one that does not generate from them (GPT-1, XLNet).

    Args:
        model: any causal language model; its weights are frozen.
        base: the name it was asked for by (alias, folder or hub id); kept in adapters.
        revision: the hub revision, or None.

    Raises:
        ModelError: the model cannot be driven by input embeddings alone.
    """

    has_layers = True
    """Whether it can run; one that is served elsewhere embeds only."""

    def __init__(self, model: PreTrainedModel, *, base: str, revision: str | None = None) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        _remove_dropout(model)
        _remove_decoding_habits(model)
        _let_generate_take_embeddings(model)
        use_causal_attention(model)
        self.base = base
        self.revision = revision
        self._recomputes = False
        self._kept: dict[Callable[[Backbone], Any], Any] = {}
        self.takes_position_ids = "position_ids" in _forward_parameters(self.body)
        self._probe()

    @property
    def config(self) -> Any:
        """The model's own configuration (its text part where it has several)."""
        return self.model.config.get_text_config()

    @property
    def body(self) -> nn.Module:
        """The model without its output layer.

        Raises:
            ModelError: it is not found.
        """
        prefix = self.model.base_model_prefix
        for name in (prefix, "model"):  # the prefix of Llama 4 names what it is in a larger model
            if isinstance(body := getattr(self.model, name, None), nn.Module):
                return body
        raise ModelError(
            f"{self.base}: this model's body, which is all but its output layer, is not found (it has neither {prefix!r} nor 'model'); "
            "use a causal language model that has one"
        )

    @property
    def embedding_dim(self) -> int:
        """D: width of the word embeddings, which is not always that of the hidden states (OPT-350M)."""
        return int(self.embedding_table.shape[1])

    @property
    def hidden_dim(self) -> int:
        """H, width of the last hidden states."""
        return int(self.model.get_output_embeddings().weight.shape[1])

    @property
    def embedding_table(self) -> Tensor:
        """(V, D) the word-embedding table."""
        table: Tensor = self.model.get_input_embeddings().weight
        return table

    def vocabulary(self) -> Tensor:
        """(V, D) what the model reads for each token: the table, times the embedding layer's own factor (Gemma)."""
        return self.embed(torch.arange(self.embedding_table.shape[0], device=self.device))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.embedding_table.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return self.embedding_table.dtype

    @property
    def window(self) -> int | None:
        """The most tokens the model can take, virtual tokens included; None where it does not say."""
        config = self.config
        for name in _WINDOWS:
            size = getattr(config, name, None)
            if isinstance(size, int) and size > 0:
                return size
        return None

    def embedding_hash(self) -> str:
        """SHA-256 of the word-embedding table in bfloat16: the same for a model loaded in float32 or bfloat16.

        A model loaded in float16 has another: its table was rounded differently.
        """
        return self._once_if_frozen(_table_hash)

    def weights_hash(self) -> str:
        """SHA-256 of all parameters as they are held, a prefix or what else was added included; seconds for each GB."""
        digest = hashlib.sha256()
        for parameter in self.parameters():
            digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def vocabulary_norm(self) -> float:
        """Mean Euclidean norm of the rows of `vocabulary`."""
        return self._once_if_frozen(_mean_norm)

    def _once_if_frozen(self, figure: Callable[[Backbone], Figure]) -> Figure:
        """A figure of the word embeddings, which takes seconds where they are many: it is kept unless they are trained."""
        if any(parameter.requires_grad for parameter in self.model.get_input_embeddings().parameters()):
            return figure(self)
        if figure not in self._kept:
            self._kept[figure] = figure(self)
        kept: Figure = self._kept[figure]
        return kept

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: a frozen model has no dropout."""
        return super().train(False)

    def checkpoint_activations(self) -> None:
        """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
        settings = {"use_reentrant": False}
        if hasattr(self.model, "activation_checkpointing_enable"):  # its name in newer versions of transformers
            self.model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
        else:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
        self._recomputes = True

    def embed(self, input_ids: Tensor) -> Tensor:
        """Word embeddings of (B, T) ids: (B, T, D), without gradient."""
        with torch.no_grad():
            embeddings: Tensor = self.model.get_input_embeddings()(input_ids)
        return embeddings.detach()  # recomputation has a hook that asks for their gradient

    def hidden(self, inputs_embeds: Tensor) -> Tensor:
        """Last hidden states of sequences padded on the right, if at all.

        The model is causal, so padding on the right needs no mask: no real position sees it.

        Args:
            inputs_embeds: (B, T, D).

        Returns:
            (B, T, H).
        """
        kwargs: dict[str, Any] = {}
        if self.takes_position_ids:
            kwargs["position_ids"] = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None]
        with self._recomputation():
            output = self.body(inputs_embeds=inputs_embeds, use_cache=False, return_dict=True, **kwargs)
        state: Tensor = output.last_hidden_state
        return state

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., H), with the model's own scaling and soft cap."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        config = self.config
        if (scale := getattr(config, "logit_scale", None)) is not None:
            logits = logits * scale
        if (scaling := getattr(config, "logits_scaling", None)) is not None:
            logits = logits / scaling
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits

    def target_logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities (...) in nats of `targets` (...) at hidden states (..., H)."""
        flat = target_logprobs(hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1), head=self.head)
        return flat.view(targets.shape)

    def weighted_logits_logprobs(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """See `sptune.model.target_logprobs.weighted_logits_logprobs`."""
        return weighted_logits_logprobs(hidden, targets, weights, head=self.head)

    @contextmanager
    def _recomputation(self) -> Iterator[None]:
        """Let layers recompute where asked for: they do so in training mode only, in which they refuse a key-value cache."""
        modules = self.model.modules() if self._recomputes and torch.is_grad_enabled() else ()
        layers = [module for module in modules if hasattr(module, "gradient_checkpointing")]
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    @torch.no_grad()
    def _probe(self) -> None:
        vocabulary = self.embedding_table.shape[0]
        ids = (torch.arange(14, device=self.device).view(2, 7) * 37 + 11) % vocabulary
        try:
            wanted = self.model(input_ids=ids, use_cache=False).logits.float()
            embeddings = self.embed(ids)
            given = self.model(inputs_embeds=embeddings, use_cache=False).logits.float()
            split = self.head(self.hidden(embeddings)).float()
        except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
            raise ModelError(f"{self.base}: this model does not run on input embeddings ({error})") from error
        begun = self._first_generated(embeddings)
        tolerance = 1e-3 if self.dtype == torch.float32 else 0.05
        scale = max(1.0, float(wanted.abs().max()))
        found = [("from input embeddings", given, wanted), ("from body and head apart", split, wanted)]
        if begun is not None:
            found.append(("in generation", begun, wanted[:, -1]))
        for name, logits, right in found:
            difference = float((logits - right).abs().max()) / scale
            if not difference <= tolerance:
                raise ModelError(
                    f"{self.base}: logits {name} differ from those from token ids by {difference:.2g} (at most {tolerance:g} is allowed); "
                    "this model needs more than input embeddings, so soft prompts cannot drive it"
                )

    def _first_generated(self, embeddings: Tensor) -> Tensor | None:
        """(n, V) logits of the first token that `generate` makes after embeddings (n, T, D); None for a class that is known to take them."""
        if "prepare_inputs_for_generation" not in vars(self.model):
            return None
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=self.device)
        settings = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": 0, "output_logits": True}
        try:
            made = self.model.generate(
                inputs_embeds=embeddings, attention_mask=mask, return_dict_in_generate=True, **settings
            )
        except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError, IndexError) as error:
            raise ModelError(f"{self.base}: this model does not generate from input embeddings ({error})") from error
        logits: Tensor = made.logits[0].float()
        return logits


def _remove_dropout(model: nn.Module) -> None:
    """Set every dropout rate to 0: layers that recompute are in training mode, and some draw dropout themselves (OPT)."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _remove_decoding_habits(model: PreTrainedModel) -> None:
    """Forget the checkpoint's sampling settings and penalties, which would mix with a call's; keep its end of sequence."""
    from transformers import GenerationConfig

    if (habits := getattr(model, "generation_config", None)) is not None:
        model.generation_config = GenerationConfig(eos_token_id=habits.eos_token_id)


def _let_generate_take_embeddings(model: PreTrainedModel) -> None:
    """Name `inputs_embeds` where the model's `prepare_inputs_for_generation` only hands it on.

    `generate` looks for the name, and refuses embeddings without it; models with pictures (Gemma 3) and hybrids (Bamba) have it not.
    """
    own = getattr(type(model), "prepare_inputs_for_generation", None)
    if own is None or "inputs_embeds" in inspect.signature(own).parameters:
        return

    def prepare(self: Any, input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any) -> Any:
        return own(self, input_ids, inputs_embeds=inputs_embeds, **kwargs)

    model.prepare_inputs_for_generation = MethodType(prepare, model)  # bound, so that a copy of the model has its own


def _table_hash(backbone: Backbone) -> str:
    table = backbone.embedding_table.detach().to("cpu", torch.bfloat16).contiguous()
    return hashlib.sha256(table.view(torch.uint8).numpy().data).hexdigest()


@torch.no_grad()
def _mean_norm(backbone: Backbone) -> float:
    ids = torch.arange(len(backbone.embedding_table), device=backbone.device)
    norms = [backbone.embed(some).float().norm(dim=1) for some in torch.split(ids, _CHUNK)]
    return float(torch.cat(norms).mean())


def _forward_parameters(module: nn.Module) -> set[str]:
    return set(inspect.signature(module.forward).parameters)
