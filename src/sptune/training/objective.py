"""What is minimised: the weighted sum of the losses (paper, eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sptune import losses
from sptune.config import LossesSection
from sptune.training.similarity import Similarity, different_dialogues

if TYPE_CHECKING:
    from sptune.data.batch import TokenBatch
    from sptune.model.spt import SPTOutput


@dataclass(frozen=True, slots=True)
class LossParts:
    """The total and what it is made of, before weighting. Scalars; the parts in nats, but for the contrastive loss (a cosine).

    Attributes:
        total: the weighted sum.
        llm: L_LLM; 0 where its weight is 0, as the other parts.
        selection: L_selection.
        contrastive: L_contrastive.
        fusion: L_fusion.
        balance: KL(mean gate || uniform).
        nll: (n, K) l_ik, detached, for the monitor.
    """

    total: Tensor
    llm: Tensor
    selection: Tensor
    contrastive: Tensor
    fusion: Tensor
    balance: Tensor
    nll: Tensor


class Objective:
    """`L = w_llm L_LLM + w_sel L_selection + w_con L_contrastive + w_fus L_fusion + w_bal L_balance`.

    L_LLM is that of `settings.objective`; the balance term is not of the paper.

    Args:
        settings: weights and variants of the losses.
        similarity: M of the contrastive loss.
        seed: of the teacher's noise and of `shuffle_teachers`, which depend on nothing but (seed, step), so that a resumed run draws the same.
    """

    def __init__(self, settings: LossesSection, *, similarity: Similarity, seed: int = 0) -> None:
        self.settings = settings
        self._similarity = similarity
        self._seed = seed

    @property
    def fuses_logits(self) -> bool:
        """Whether the model has to compute the score-weighted fusion of logits."""
        return self.settings.fusion.kind == "score_weighted_logits" and self.settings.fusion.weight > 0

    def __call__(self, output: SPTOutput, batch: TokenBatch, *, progress: float = 0.0, step: int = 0) -> LossParts:
        """The losses of one batch.

        Args:
            output: of the model on the batch.
            batch: n examples.
            progress: share of training done, 0..1; anneals the responsibilities.
            step: number of the batch since the start of training; seeds what is drawn.
        """
        s = self.settings
        sums = losses.example_sums(output.target_logprobs, example=batch.target_example, examples=batch.examples)
        nll = -sums / losses.example_tokens(batch.target_example, batch.examples)[:, None]
        scores = self._shuffled(output.scores, step) if s.shuffle_teachers else output.scores
        zero = nll.new_zeros(())
        llm = self._llm(output, batch, scores, sums, nll, progress) if s.llm_weight else zero
        selection = self._selection(scores, nll, step) if s.selection.weight else zero
        contrastive = self._contrastive(output.scores, batch) if s.contrastive.weight else zero
        fusion = self._fusion(output) if s.fusion.weight else zero
        balance = losses.balance_loss(self._gate(scores)) if s.balance_weight else zero
        total = (
            s.llm_weight * llm
            + s.selection.weight * selection
            + s.contrastive.weight * contrastive
            + s.fusion.weight * fusion
            + s.balance_weight * balance
        )
        return LossParts(total, llm, selection, contrastive, fusion, balance, nll.detach())

    def shared(self, output: SPTOutput, batch: TokenBatch) -> LossParts:
        """The losses before the prompts part (`training.shared`): the mean L_LLM of those that are trained, the first ones, and nothing else.

        Its weight counts, unless it is 0: the prompts have to learn from something. The monitor is told the losses of the K prompts as if the
        others were copies of those.
        """
        llm = losses.llm_loss(output.target_logprobs)
        zero = llm.detach().new_zeros(())
        nll = losses.example_nll(output.target_logprobs, example=batch.target_example, examples=batch.examples)
        total = self.settings.llm_weight * llm if self.settings.llm_weight else llm
        alike = torch.arange(output.scores.shape[1], device=nll.device) % nll.shape[1]
        return LossParts(total, llm, zero, zero, zero, zero, nll.detach()[:, alike])

    def _gate(self, scores: Tensor) -> Tensor:
        return losses.gate(scores, temperature=self.settings.gate_temperature)

    def _llm(
        self, output: SPTOutput, batch: TokenBatch, scores: Tensor, sums: Tensor, nll: Tensor, progress: float
    ) -> Tensor:
        s, tokens = self.settings, output.target_logprobs.shape[1]
        if s.objective == "mixture":
            return losses.mixture_loss(self._gate(scores), sums, tokens=tokens)
        if s.objective == "expected":
            return losses.expected_loss(self._gate(scores), sums, tokens=tokens, uniform_share=s.uniform_share)
        weights = self._weights(nll, progress)
        return losses.llm_loss(output.target_logprobs, weights=weights, example=batch.target_example)

    def _shuffled(self, scores: Tensor, step: int) -> Tensor:
        """The scores in a random order. Were a context never left its own, it would learn, on average, from what it is not."""
        return scores[torch.randperm(len(scores), generator=self._generator(step)).to(scores.device)]

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed * 1_000_003 + step)

    def _weights(self, nll: Tensor, progress: float) -> Tensor | None:
        s = self.settings
        if s.update == "all":
            return None
        share = min(1.0, progress / s.responsibility_anneal) if s.responsibility_anneal else 1.0
        return losses.responsibility_weights(nll, temperature=s.responsibility_temperature, share=share)

    def _selection(self, scores: Tensor, nll: Tensor, step: int) -> Tensor:
        s = self.settings.selection
        if s.kind == "regret":
            return losses.regret_loss(scores, nll, temperature=s.student_temperature)
        noise = None
        if s.teacher_noise:
            noise = s.teacher_noise * torch.randn(nll.shape, generator=self._generator(step)).to(nll.device)
        return losses.selection_loss(
            scores,
            nll,
            teacher_temperature=s.teacher_temperature,
            student_temperature=s.student_temperature,
            noise=noise,
        )

    def _contrastive(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        s = self.settings.contrastive
        return losses.contrastive_loss(
            scores,
            similarity=self._similarity(batch).to(scores.device),
            threshold=s.threshold,
            mask=None if s.same_dialogue else different_dialogues(batch),
            similar=s.similar,
        )

    @staticmethod
    def _fusion(output: SPTOutput) -> Tensor:
        if output.fused_logprobs is not None:
            return -output.fused_logprobs.mean()
        return losses.fusion_loss(output.target_logprobs)
