"""Does choosing help? Perplexities of the ways to use K prompts, on the same turns, over the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sptune.evaluation.significance import BootstrapResult
from sptune.experiments.report.findings import comparable, compare
from sptune.experiments.report.kept_cell import KeptCell
from sptune.experiments.report.seed_scores import SeedScore, mean_score, perplexity_score
from sptune.experiments.report.system import OverSeeds, System, over_seeds
from sptune.report.selection import best_single_share, turn_scores

BEST_SINGLE = "best-single"  # the decoding that always uses the prompt that is best on the validation dialogues

_LIKELIHOOD = {
    "chosen": "perplexity",
    "random": "random_perplexity",
    "best_single": "best_prompt_perplexity",
    "oracle": "oracle_perplexity",
    "fused": "fused_perplexity",
    "gated": "gated_perplexity",
    "mixture": "mixture_perplexity",
}


@dataclass(frozen=True, slots=True)
class Controls:
    """Figures of a system with K > 1 prompts; those that a seed lacks are None.

    Attributes:
        system: whose adapters they are of.
        perplexity: way to use the prompts -> perplexity. chosen: by the retriever; random: expected of a random one a
            turn; best_single: the best for all test turns, in hindsight; validated_single: the best on validation;
            oracle: the best of each turn, in hindsight; fused: the average of the distributions; gated: their average
            weighted by the gate; mixture: whole responses by a prompt drawn from the gate; probe and embedding_probe:
            what a regression from the hidden state, and from the mean word embedding, picks.
        agreement: share of turns whose chosen prompt is the best.
        always_same: the largest such share that one prompt for all turns reaches.
        usage: shares of turns, those of the prompt chosen most first; means over the seeds.
        evenness: entropy of the usage / log K.
        against: random, best_single, validated_single, probe -> perplexity of the chosen minus it.
    """

    system: System
    perplexity: dict[str, OverSeeds | None]
    agreement: OverSeeds | None
    always_same: OverSeeds | None
    usage: tuple[float, ...]
    evenness: OverSeeds | None
    against: dict[str, BootstrapResult]


def controls_of(system: System) -> Controls | None:
    """The controls of a system; None where it has one prompt, or no figures of the choice."""
    evaluations = [cell.main for cell in system.cells if cell.main]
    figures = [one.result.selection for one in evaluations if one.result.selection]
    if system.prompts < 2 or len(figures) < len(evaluations):
        return None
    usage = [sorted(figure.usage, reverse=True) for figure in figures]
    return Controls(
        system=system,
        perplexity=_perplexities(system.cells),
        agreement=over_seeds([figure.agreement for figure in figures]),
        always_same=over_seeds([best_single_share(turn_scores(one)) for one in evaluations]),
        usage=tuple(math.fsum(shares) / len(shares) for shares in zip(*usage, strict=True)),
        evenness=over_seeds([figure.entropy for figure in figures]),
        against=_against(system.cells),
    )


def _perplexities(cells: Sequence[KeptCell]) -> dict[str, OverSeeds | None]:
    found = [cell.main.result.likelihood if cell.main else None for cell in cells]
    values = {name: over_seeds([getattr(one, field, None) for one in found]) for name, field in _LIKELIHOOD.items()}
    singles = [_validated_prompt(cell) for cell in cells]
    known = [one.prompt_perplexity[k] if one and k is not None else None for one, k in zip(found, singles, strict=True)]
    hidden, embedding = ([getattr(cell.probe, name, None) for cell in cells] for name in ("hidden", "embedding"))
    return values | {
        "validated_single": over_seeds(known),
        "probe": over_seeds([one.perplexity if one else None for one in hidden]),
        "embedding_probe": over_seeds([one.perplexity if one else None for one in embedding]),
    }


def _validated_prompt(cell: KeptCell) -> int | None:
    """The single prompt that was best on the validation dialogues, as the evaluation that is forced to it says."""
    one = cell.evaluations.get(BEST_SINGLE)
    prompt = one.result.settings.get("prompt") if one else None
    return prompt if isinstance(prompt, int) else None


def _against(cells: Sequence[KeptCell]) -> dict[str, BootstrapResult]:
    """Chosen minus each control, means over the seeds, paired by dialogue; those that a seed lacks are left out."""
    seeds = [_scores(cell) for cell in cells]
    shared = [name for name in seeds[0] if all(name in scores for scores in seeds)]
    if "chosen" not in shared or len({scores["chosen"].places for scores in seeds}) > 1:
        return {}
    means = {name: mean_score([scores[name] for scores in seeds]) for name in shared}
    chosen = means.pop("chosen")
    return {name: compare(chosen, other) for name, other in means.items() if comparable(chosen, other)}


def _scores(cell: KeptCell) -> dict[str, SeedScore]:
    """Perplexities of one seed: of the chosen prompts, and of the controls that are compared with them."""
    turns = cell.main.turns if cell.main else ()
    if not turns or any(turn.logprobs is None for turn in turns):
        return {}
    logprobs = np.array([turn.logprobs for turn in turns])  # (n, K)
    found = {
        "chosen": _picked(logprobs, [turn.prompt for turn in turns]),
        "random": -logprobs.mean(axis=1),
        "best_single": -logprobs[:, logprobs.sum(axis=0).argmax()],
    }
    single = _validated_prompt(cell)
    if single is not None:
        found["validated_single"] = -logprobs[:, single]
    if cell.probe and len(cell.probe.hidden.picks) == len(turns):
        found["probe"] = _picked(logprobs, cell.probe.hidden.picks)
    return {name: perplexity_score(turns, costs) for name, costs in found.items()}


def _picked(logprobs: NDArray[np.float64], prompts: Sequence[int]) -> NDArray[np.float64]:
    """(n,) costs under one prompt a turn."""
    costs: NDArray[np.float64] = -logprobs[np.arange(len(logprobs)), list(prompts)]
    return costs
