"""Validation in training: the evaluation's likelihood and selection figures, on dialogues that are not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sptune.evaluation.scoring import likelihood, score_turns, selection_quality
from sptune.evaluation.turns import choose_prompts

if TYPE_CHECKING:
    from sptune.data.dialogue import Dialogue
    from sptune.model.spt import SPTModel


def validate(model: SPTModel, dialogues: Sequence[Dialogue]) -> dict[str, Any]:
    """Perplexities and selection figures under top-1 selection.

    Args:
        model: the model in training.
        dialogues: validation dialogues, with responses.

    Returns:
        By the names of `metrics.jsonl`: perplexities per response token, shares, and losses in nats per token.
    """
    scores = score_turns(model, choose_prompts(model, dialogues))
    figures, selection = likelihood(scores), selection_quality(scores)
    return {
        "perplexity": figures.perplexity,
        "fused_perplexity": figures.fused_perplexity,
        "oracle_perplexity": figures.oracle_perplexity,
        "random_perplexity": figures.random_perplexity,
        "best_prompt_perplexity": figures.best_prompt_perplexity,
        "prompt_perplexity": list(figures.prompt_perplexity),
        "usage": list(selection.usage),
        "usage_entropy": selection.entropy,
        "agreement": selection.agreement,
        "regret": selection.regret,
        "specialisation": selection.specialisation,
        "margin": selection.margin,
    }
