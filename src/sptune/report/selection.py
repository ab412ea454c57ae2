"""How well prompts are chosen, in plain sentences, and the plots that show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sptune.evaluation.scoring import Likelihood
from sptune.model.figures import SelectionFigures
from sptune.report.document import Block, Bullets, Paragraph, Section, Tile
from sptune.report.plots.score_map import TurnScores
from sptune.report.run_folder import Evaluated, RunFolder


def selection_section(run: RunFolder, plots: Sequence[Block]) -> Section | None:
    """The figures of selection; None where there is nothing to say, as with K = 1."""
    blocks: list[Block] = []
    found = known_selection(run)
    if found:
        blocks += [Paragraph(f"On {found.data}:"), Bullets(tuple(selection_sentences(found.figures, found.evaluated)))]
    blocks += plots
    return Section("Choice of prompts", tuple(blocks)) if blocks else None


@dataclass(frozen=True, slots=True)
class KnownSelection:
    """Figures of selection, the data they are of (in words), and the evaluation, where they come from one."""

    figures: SelectionFigures
    data: str
    evaluated: Evaluated | None


def known_selection(run: RunFolder) -> KnownSelection | None:
    """Figures of the test turns; else of the validation of the kept adapter; None where K = 1 or nothing is known."""
    if run.main and run.main.result.selection:
        return KnownSelection(run.main.result.selection, "the test turns", run.main)
    record = run.kept
    names = ("usage_entropy", "agreement", "regret", "specialisation", "margin")
    if run.prompts == 1 or record is None or not {"usage", *names} <= set(record):
        return None
    figures = SelectionFigures(tuple(record["usage"]), *(record[name] for name in names))
    return KnownSelection(figures, f"the validation turns, at step {record['step']}", None)


def selection_tile(run: RunFolder) -> list[Tile]:
    """How often the best prompt is chosen."""
    found = known_selection(run)
    if found is None:
        return []
    single = best_single_share(turn_scores(found.evaluated)) if found.evaluated else None
    against = f"by chance {1 / len(found.figures.usage):.0%}"
    against += f", always the same {single:.0%}" if single is not None else ""
    return [Tile("Best prompt chosen", f"{found.figures.agreement:.0%}", against)]


def selection_sentences(figures: SelectionFigures, one: Evaluated | None = None) -> list[str]:
    """One plain sentence for each figure of selection.

    Args:
        figures: of K > 1 prompts.
        one: the evaluation they are of, for perplexities and the scores of single turns; None where there is none.
    """
    turns = turn_scores(one) if one else []
    sentences = [_agreement(figures, best_single_share(turns)), _regret(figures)]
    if one and one.result.likelihood:
        sentences.append(_perplexities(one.result.likelihood))
    lead = f"The best score leads the second best by {figures.margin:.3f} on average."
    return [*sentences, _usage(figures), lead, *_correlation(turns)]


def turn_scores(one: Evaluated) -> list[TurnScores]:
    """Scores and losses per token of the turns of an evaluation."""
    return [
        TurnScores(
            turn.prompt,
            turn.scores,
            tuple(-value / turn.tokens for value in turn.logprobs) if turn.logprobs and turn.tokens else None,
        )
        for turn in one.turns
    ]


def correlations(turns: Sequence[TurnScores]) -> tuple[float, float] | None:
    """How scores go with losses: two Pearson correlations over turns and prompts.

    The first is of `s_ik - mean_k s_i` with `-(l_ik - mean_k l_i)`: do prompts that score high have low losses? The
    second takes each prompt's mean over the turns out too: does a prompt score higher on turns on which it is better?

    Returns:
        The two, the second 0 where scores are the same on every turn; None where the first cannot be computed: no
        losses, K = 1, or no variation.
    """
    known = [turn for turn in turns if turn.losses]
    if not known or len(known[0].scores) < 2:
        return None
    scores, losses = np.array([turn.scores for turn in known]), np.array([turn.losses for turn in known])  # (n, K)
    of_prompts = _cosine(_centred(scores, (1,)), -_centred(losses, (1,)))
    of_turns = _cosine(_centred(scores, (1, 0)), -_centred(losses, (1, 0)))
    return None if of_prompts is None else (of_prompts, of_turns or 0.0)


def _cosine(left: np.ndarray, right: np.ndarray) -> float | None:
    scale = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum()) / scale if scale > 1e-12 else None


def best_single_share(turns: Sequence[TurnScores]) -> float | None:
    """Share of turns on which the prompt that is best most often is best: agreement without a look at the context."""
    losses = [turn.losses for turn in turns if turn.losses]
    if not losses:
        return None
    best = [row.index(min(row)) for row in losses]
    return max(best.count(prompt) for prompt in set(best)) / len(best)


def _centred(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    for axis in axes:
        values = values - values.mean(axis, keepdims=True)
    return values


def _agreement(figures: SelectionFigures, single: float | None) -> str:
    chance = f"chance {1 / len(figures.usage):.0%}"
    chance += f"; choosing the same prompt always: up to {single:.0%}" if single is not None else ""
    return f"The retriever chose the best prompt in {figures.agreement:.0%} of turns ({chance})."


def _regret(figures: SelectionFigures) -> str:
    start = (
        f"The chosen prompt costs {figures.regret:.3f} nats per token more than the best one of each turn, known only "
        f"in hindsight; a random choice would cost {figures.specialisation:.3f} more"
    )
    if figures.specialisation < 1e-9:
        return f"{start}: the prompts do not differ."
    won = 1 - figures.regret / figures.specialisation
    if won < 0:
        return f"{start}: the retriever chooses worse than chance."
    return f"{start}: the retriever wins {won:.0%} of what there is to win over chance."


def _usage(figures: SelectionFigures) -> str:
    share = max(figures.usage)
    used = sum(value > 0 for value in figures.usage)
    return (
        f"Prompt {figures.usage.index(share)} is chosen most, in {share:.0%} of turns; {used} of {len(figures.usage)} "
        f"prompts are chosen at all; evenness of use is {figures.entropy:.2f} (1: all equally often, 0: one for all)."
    )


def _perplexities(found: Likelihood) -> str:
    change = 100 * (found.perplexity / found.best_prompt_perplexity - 1)
    verdict = "no different" if abs(change) < 0.05 else f"{abs(change):.1f}% {'lower' if change < 0 else 'higher'}"
    return (
        f"Choosing for every turn gives perplexity {found.perplexity:.2f}, {verdict} than always prompt "
        f"{found.best_prompt}, the best single one in hindsight ({found.best_prompt_perplexity:.2f}); a random choice "
        f"gives {found.random_perplexity:.2f}, the best of every turn {found.oracle_perplexity:.2f}, and the average of "
        f"all prompts' predictions {found.fused_perplexity:.2f}."
    )


def _correlation(turns: Sequence[TurnScores]) -> list[str]:
    found = correlations(turns)
    if found is None:
        return []
    return [
        f"Scores and losses agree with correlation {found[0]:.2f} (1: scores follow losses, 0: no relation, below 0: "
        "the wrong way round); with each prompt's own average taken out, which leaves what the retriever knows of the "
        f"single turn, {found[1]:.2f}."
    ]
