"""Selective Prompt Tuning on a frozen language model: K soft prompts, a retriever, and all K prompts in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sptune.adapter import PROMPTS_KEY, Adapter, load_adapter, save_adapter
from sptune.data.encoder import DialogueEncoder
from sptune.data.template import TemplateKind, default_stops, make_template
from sptune.errors import AdapterError
from sptune.model import saved
from sptune.model.generate import Decoding, context_room, generate_tokens, said_in, speaker
from sptune.model.hub import local_folder, upload
from sptune.model.load import DEFAULT_MODEL, Dtype, LoadedBase, load_base
from sptune.model.mixture import Speakers
from sptune.model.prompts import SoftPrompts, sample_rows
from sptune.model.retriever import Contexts, Retriever, RetrieverKind, seeded_retriever
from sptune.model.selection import Selection, SelectionRule, select
from sptune.model.token_text import decode
from sptune.text import cut_reply

if TYPE_CHECKING:
    from sptune.data.batch import TokenBatch
    from sptune.data.dialogue import Dialogue
    from sptune.model.backbone import Backbone


@dataclass(frozen=True, slots=True)
class SPTOutput:
    """What every loss is a function of.

    Attributes:
        target_logprobs: (K, N) log-probability in nats of each response token under each prompt.
        scores: (n, K) the retriever's scores s_ik.
        fused_logprobs: (N,) log-probability under the softmax of the score-weighted sum of logits, or None where not asked for.
    """

    target_logprobs: Tensor
    scores: Tensor
    fused_logprobs: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A generated response.

    Attributes:
        text: the reply, cut at the model's stops.
        selection: the prompt that spoke, and the scores.
        tokens: new tokens, before cutting.
    """

    text: str
    selection: Selection
    tokens: tuple[int, ...]


class SPTModel(nn.Module):
    """A frozen base model, K soft prompts and the retriever that chooses among them.

    Only `prompts` and `retriever` have trainable parameters.

    Args:
        backbone: the frozen base model.
        prompts: the soft prompts.
        retriever: scores contexts against prompts.
        encoder: turns dialogues into tokens; its `prompt_length` is that of `prompts`.
        stops: texts that end a reply when it is generated (the paper cuts at a line break, `R:`, `Q:` or a colon).
        speakers: who speaks where nothing else is asked for: what the prompts were trained for.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: SoftPrompts,
        retriever: Retriever,
        encoder: DialogueEncoder,
        *,
        stops: Sequence[str] = (),
        speakers: Speakers | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prompts = prompts.to(backbone.device)
        self.retriever = retriever.to(backbone.device)
        self.encoder = encoder
        self.stops = tuple(stops)
        self.speakers = speakers or Speakers()

    @property
    def trainable_parameters(self) -> int:
        """How many numbers are trained; a single prompt's retriever has nothing to choose and does not count."""
        idle = set(self.retriever.parameters()) if self.prompts.count == 1 else set()
        return sum(p.numel() for p in self.parameters() if p.requires_grad and p not in idle)

    @classmethod
    def from_base(
        cls,
        base: str | LoadedBase = DEFAULT_MODEL,
        *,
        num_prompts: int = 4,
        prompt_length: int = 8,
        retriever: RetrieverKind = "linear",
        template: TemplateKind = "paper",
        seed: int = 0,
    ) -> SPTModel:
        """A model to be trained: prompts from sampled vocabulary rows, a new retriever.

        Args:
            base: `smollm2-135m`, a local folder, a hub id, or what `load_base` returned.
            num_prompts: K.
            prompt_length: L; 0 is the bare model.
            retriever: kind of the map g.
            template: how a dialogue becomes text.
            seed: of prompts and retriever.

        Raises:
            ModelError: the base model cannot be loaded or driven by input embeddings.

        >>> import sptune
        >>> model = sptune.SPTModel.from_base("smollm2-135m", num_prompts=4, prompt_length=8)
        >>> model.prompts.embeddings.shape
        torch.Size([4, 8, 576])
        """
        loaded = load_base(base) if isinstance(base, str) else base
        backbone = loaded.backbone
        generator = torch.Generator().manual_seed(seed)
        prompts = sample_rows(backbone.vocabulary(), count=num_prompts, length=prompt_length, generator=generator)
        scorer = seeded_retriever(lambda: Retriever(retriever, dim=backbone.embedding_dim), seed=seed)
        encoder = DialogueEncoder(
            loaded.tokenizer,
            make_template(template, tokenizer=loaded.tokenizer),
            prompt_length=prompt_length,
            window=backbone.window,
        )
        return cls(backbone, SoftPrompts(prompts), scorer, encoder, stops=default_stops(template))

    @classmethod
    def from_pretrained(
        cls,
        adapter: str | Path,
        *,
        base: str | LoadedBase | None = None,
        dtype: Dtype = "auto",
        device: str = "auto",
    ) -> SPTModel:
        """The model of a trained adapter.

        Args:
            adapter: an adapter folder, a run folder, or a hub id `owner/name`.
            base: the base model, where it lies elsewhere than the adapter says, or what `load_base` returned.
            dtype: of the base model.
            device: of the base model.

        Raises:
            AdapterError: missing, damaged, or made for another base model.
            ModelError: the base model cannot be loaded.

        >>> import sptune
        >>> sptune.SPTModel.from_base(num_prompts=2).save_pretrained("adapter")
        >>> sptune.SPTModel.from_pretrained("adapter").prompts.count
        2
        """
        loaded_adapter = load_adapter(local_folder(adapter))
        config = loaded_adapter.config
        if not isinstance(base, LoadedBase):
            revision = config.base.revision if base is None else None
            base = load_base(base or config.base.id, revision=revision, dtype=dtype, device=device)
        if config.embedding_dim != base.backbone.embedding_dim:
            raise AdapterError(
                f"{adapter}: made for embeddings of width {config.embedding_dim} ({config.base.id}); "
                f"{base.backbone.base} has width {base.backbone.embedding_dim}; give the base model it was trained on"
            )
        scorer = saved.make_retriever(config, loaded_adapter.tensors, base=base)
        prompts = SoftPrompts(loaded_adapter.tensors[PROMPTS_KEY])
        encoder, speakers = saved.make_encoder(config, base), saved.speakers_of(config)
        model = cls(base.backbone, prompts, scorer, encoder, stops=config.stops, speakers=speakers)
        model.load_tensors(loaded_adapter)
        return model

    def generate(
        self,
        contexts: Sequence[Dialogue],
        *,
        decoding: Decoding | None = None,
        rule: SelectionRule = "top1",
        prompt: int | None = None,
    ) -> list[Reply]:
        """Replies to n contexts in one batch, each under the prompt that was chosen for it, or under all of them.

        Args:
            contexts: dialogues whose last turn waits for its response.
            decoding: how tokens are chosen; greedy, at most 32 new tokens, where None.
            rule: how a prompt is chosen from the scores.
            prompt: a forced prompt; it speaks alone.

        Returns:
            n replies.

        Raises:
            UsageError: no such prompt, or the reply does not fit the window.
            DataError: a context that does not fit the window.

        >>> import sptune
        >>> talk = sptune.Dialogue("talk", persona=("I keep bees.",), turns=(sptune.Turn("What do you do on Sundays?"),))
        >>> [reply] = sptune.SPTModel.from_base().generate([talk], decoding=sptune.Decoding(max_new_tokens=8))
        >>> len(reply.tokens) <= 8, reply.selection.prompt in range(4)
        (True, True)
        """
        if not contexts:
            return []
        decoding = decoding or Decoding()
        room = context_room(self, decoding)
        ids = [self.encoder.encode_context(context, room=room).input_ids for context in contexts]
        generator = torch.Generator().manual_seed(decoding.seed) if decoding.seed is not None else None
        selections = select(self.scores_of_ids(ids), rule=rule, prompt=prompt, generator=generator)
        speakers = decoding.speakers(self.speakers, rule=rule, forced=prompt is not None)
        rows = [
            speaker(row, chosen, speakers, said=said_in(self, context))
            for row, chosen, context in zip(ids, selections, contexts, strict=True)
        ]
        tokens = generate_tokens(self, rows, decoding=decoding)
        return [Reply(self.text(new), chosen, tuple(new)) for new, chosen in zip(tokens, selections, strict=True)]

    def text(self, tokens: Sequence[int]) -> str:
        """The reply that `tokens` spell, cut at the first of the model's stops and stripped."""
        return cut_reply(self.decode(tokens), stops=self.stops)

    def decode(self, tokens: Sequence[int]) -> str:
        """All the text that `tokens` spell, uncut. More tokens only add to it, so that it can be streamed."""
        return decode(self.encoder.tokenizer, tokens)

    def forward(self, batch: TokenBatch, *, fuse_logits: bool = False, first: int | None = None) -> SPTOutput:
        """Run all K prompts over a packed batch in one forward pass.

        Args:
            batch: B sequences, n examples, N response tokens.
            fuse_logits: also compute the score-weighted fusion of logits (paper's published code).
            first: run so many prompts alone, the first ones; `target_logprobs` is then (first, N), the scores are still those of all K, and
                nothing is fused.

        Returns:
            Log-probabilities and scores. No (K, B, T, V) tensor exists at any time.
        """
        embeddings = self.backbone.embed(batch.input_ids)  # (B, T, D)
        prompts: Tensor = self.prompts.embeddings  # made once, where a network makes them
        scores = self.retriever(self.contexts(embeddings, batch.example_row, batch.context_length), prompts)
        prompts = prompts[:first]
        hidden = self._run(prompts, embeddings)  # (K, B, L+T, H)
        chosen = hidden[:, batch.target_row, self.prompts.length + batch.target_position]  # (K, N, H)
        targets = batch.target_ids.expand(len(prompts), -1)  # (K, N)
        fused = None
        if fuse_logits and first is None:
            weights = scores[batch.target_example]  # (N, K)
            fused = self.backbone.weighted_logits_logprobs(chosen, batch.target_ids, weights)
        return SPTOutput(self.backbone.target_logprobs(chosen, targets), scores, fused)

    def scores(self, contexts: Sequence[Dialogue]) -> Tensor:
        """Scores of the K prompts for each context, without running the language model.

        Args:
            contexts: n dialogues whose last turn waits for its response.

        Returns:
            (n, K) float32. A context's scores do not depend on what else is in the list.

        >>> import sptune
        >>> talk = sptune.Dialogue("talk", persona=("I keep bees.",), turns=(sptune.Turn("What do you do on Sundays?"),))
        >>> sptune.SPTModel.from_base(num_prompts=4).scores([talk]).shape
        torch.Size([1, 4])
        """
        return self.scores_of_ids([self.encoder.encode_context(context).input_ids for context in contexts])

    @torch.no_grad()
    def scores_of_ids(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Scores (n, K) of contexts given as token ids."""
        if not ids:
            return self.prompts.embeddings.new_zeros(0, self.prompts.count)
        device = self.backbone.device
        padded = pad_sequence([torch.tensor(row) for row in ids], batch_first=True).to(device)
        length = torch.tensor([len(row) for row in ids], device=device)
        contexts = self.contexts(self.backbone.embed(padded), torch.arange(len(ids), device=device), length)
        scores: Tensor = self.retriever(contexts, self.prompts.embeddings)
        return scores

    def contexts(self, embeddings: Tensor, row: Tensor, length: Tensor) -> Contexts:
        """What the retriever reads of n contexts.

        Args:
            embeddings: (B, T, D) word embeddings of sequences that are padded on the right, if at all.
            row: (n,) the sequence of each context.
            length: (n,) tokens of each context, counted from the start of its sequence.
        """
        hidden = None
        if self.retriever.reading.input == "hidden":
            with torch.no_grad():
                hidden = self.backbone.hidden(embeddings)
        return Contexts(embeddings, row, length, hidden=hidden)

    def adapter(self) -> Adapter:
        """The trained part, ready to be saved."""
        return Adapter(saved.describe(self), self._tensors())

    def load_tensors(self, adapter: Adapter) -> None:
        """Take the numbers of `adapter`, which must be of this model's shape: all of them, or none.

        Raises:
            AdapterError: made for another base model, or of another shape.
        """
        if adapter.config.base.embedding_sha256 != self.backbone.embedding_hash():
            raise AdapterError(
                f"the adapter was trained on {adapter.config.base.id!r}, whose embedding table differs from that of {self.backbone.base!r}; "
                "give the base model it was trained on"
            )
        own = self._tensors()
        saved.check_shapes(own, adapter.tensors)
        for name, tensor in own.items():
            tensor.copy_(adapter.tensors[name])

    def _tensors(self) -> dict[str, Tensor]:
        """What is trained and saved, by the names it has in an adapter; the model's own storage."""
        retriever = {f"retriever.{name}": tensor for name, tensor in self.retriever.state_dict().items()}
        return {PROMPTS_KEY: self.prompts.embeddings.detach()} | retriever

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the adapter folder (docs/adapter-format.md).

        Raises:
            StorageError: the folder cannot be written.
            AdapterError: a number is not finite.

        >>> import sptune
        >>> from pathlib import Path
        >>> sptune.SPTModel.from_base().save_pretrained("adapter")
        >>> sorted(path.name for path in Path("adapter").iterdir())
        ['README.md', 'adapter_config.json', 'adapter_model.safetensors']
        """
        from sptune.model.card import model_card

        adapter = self.adapter()
        save_adapter(folder, adapter, card=model_card(adapter.config))

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the adapter folder to the Hugging Face hub.

        Args:
            repo_id: `owner/name`; created when it does not exist.
            private: for a new repository.
            token: access token; the one of `hf auth login` where None.

        Returns:
            The commit's address.

        >>> import sptune
        >>> sptune.SPTModel.from_base().push_to_hub("me/bees")  # doctest: +SKIP
        'https://huggingface.co/me/bees/commit/...'
        """
        return upload(self.save_pretrained, repo_id, private=private, token=token)

    def _run(self, prompts: Tensor, embeddings: Tensor) -> Tensor:
        """Hidden states (K, B, L+T, H) of [SP_k; sequence] for every prompt and sequence, in one pass."""
        count, length, _ = prompts.shape
        rows, tokens, dim = embeddings.shape
        soft = prompts.to(embeddings.dtype)[:, None].expand(count, rows, length, dim)
        inputs = torch.cat([soft, embeddings.expand(count, rows, tokens, dim)], dim=2)  # (K, B, L+T, D)
        hidden = self.backbone.hidden(inputs.flatten(0, 1))
        return hidden.view(count, rows, *hidden.shape[1:])
