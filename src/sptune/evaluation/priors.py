"""Log-probabilities of replies without their context, for mutual information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

from sptune.data.dialogue import Dialogue, Turn
from sptune.model.prefix import Prefix, Tokens, Way, prompted, run_prefix, token_logprobs

if TYPE_CHECKING:
    from sptune.model.spt import SPTModel

Prior = Literal["prompt", "bare", "none"]


class Priors:
    """What replies are worth where nobody said anything; each empty context is run once.

    Args:
        model: the model.
        source: before the empty context stands each prompt that is asked about (`prompt`), or nothing (`bare`); or no prior
            is measured (`none`).
        way: from `find_way`.
    """

    def __init__(self, model: SPTModel, source: Prior, *, way: Way) -> None:
        self._model, self._source, self._way = model, source, way
        self._empty: dict[int | None, Prefix] = {}

    def logprobs(self, prompts: Sequence[int], replies: Sequence[Tokens]) -> list[tuple[float, ...] | None]:
        """Summed log-probabilities of each reply, nats, a learned stop token included; None where no prior is measured.

        Args:
            prompts: numbers of the prompts whose likelihood counts; each gives one, the bare model a single one.
            replies: token ids, without the stop token.
        """
        if self._source == "none":
            return [None] * len(replies)
        speakers = prompts if self._source == "prompt" else [None]
        return list(zip(*(self._sums(prompt, replies) for prompt in speakers), strict=True))

    def _sums(self, prompt: int | None, replies: Sequence[Tokens]) -> list[float]:
        prefix = self._run(prompt)
        found = token_logprobs(
            self._model.backbone,
            prefix,
            replies,
            context=len(prefix.embeddings),
            stop_id=self._model.encoder.stop_id,
            way=self._way,
        )
        return [float(values.sum()) for values in found]

    @torch.no_grad()
    def _run(self, prompt: int | None) -> Prefix:
        if prompt not in self._empty:
            ids = self._model.encoder.encode_context(Dialogue("empty", (), (Turn(""),))).input_ids
            embeddings = prompted(self._model, ids, prompt=prompt)
            self._empty[prompt] = run_prefix(self._model.backbone, embeddings, way=self._way)
        return self._empty[prompt]
