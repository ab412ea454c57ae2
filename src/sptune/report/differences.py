"""Is the difference between two evaluations of the same turns more than chance? Paired bootstrap over dialogues."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sptune.evaluation.generation import Generation
from sptune.evaluation.metrics.f1 import unigram_f1
from sptune.evaluation.metrics.profile import PROFILES, Reply, corpus_scores
from sptune.evaluation.metrics.resampling import DISTINCT_METRICS
from sptune.evaluation.result import TurnRecord
from sptune.evaluation.significance import BootstrapResult, Scores, paired_bootstrap
from sptune.report.run_folder import Evaluated

Differences: TypeAlias = dict[str, BootstrapResult]
"""Metric -> difference."""

SAMPLES = 1000
LEVEL = 0.95
ENOUGH = 20  # dialogues; intervals over fewer are rough
_WHO = ("kind", "gate_temperature", "sampling.source", "weights.likelihood")  # settings that say who speaks


def differences(a: Evaluated, b: Evaluated) -> Differences:
    """Differences a - b with their intervals.

    Args:
        a: the first evaluation.
        b: the second, of the same turns.

    Returns:
        perplexity (under the chosen prompts), f1, bleu, dist1, dist2 -> difference. Those that cannot be computed are
        left out: all of them where the evaluations are of different turns (ids or gold responses), or of fewer than two dialogues.
    """
    return _of_likelihood(a.turns, b.turns) | _of_replies(a, b)


def rough_intervals(dialogues: int) -> str | None:
    """What to say of intervals over so few test dialogues; None where they are enough."""
    if dialogues >= ENOUGH:
        return None
    return f"The test data has {dialogues} dialogues: with fewer than {ENOUGH} all intervals are rough."


def comparable(a: Evaluated, b: Evaluated) -> list[str]:
    """In which respects two evaluations differ that should not."""
    found = []
    if a.result.data and b.result.data and a.result.data.sha256 != b.result.data.sha256:
        found.append("the dialogues")
    alone = any(one.result.model and one.result.model.prompts == 1 for one in (a, b))
    of_a, of_b = a.result.settings, b.result.settings
    pairs = (
        ("the rules of the metrics", of_a.get("profile"), of_b.get("profile")),
        ("the decoding", _decoding(of_a, alone), _decoding(of_b, alone)),
        ("the encoder of BERTScore", of_a.get("bertscore_model"), of_b.get("bertscore_model")),
    )
    found += [text for text, left, right in pairs if left is not None and right is not None and left != right]
    if a.result.model and b.result.model and a.result.model.template != b.result.model.template:
        found.append("the template")
    return found


def _decoding(settings: dict[str, Any], alone: bool) -> dict[str, Any] | None:
    """How replies were generated or chosen, without the candidates' seed and without what has no effect: the temperature of
    a gate that does not speak, and who speaks where one of the two models has a single prompt (`alone`)."""
    if settings.get("decoding") is None:
        return None
    candidates = settings.get("rerank") or {}  # sampling and weights
    how = settings["decoding"] | {
        f"{part}.{name}": value for part in candidates for name, value in candidates[part].items()
    }
    gated = any(how.get(name) in ("gated", "mixture", "drawn") for name in _WHO)
    without = _WHO if alone else () if gated else ("gate_temperature",)
    return {name: value for name, value in how.items() if name not in (*without, "sampling.seed")}


def _of_likelihood(a: tuple[TurnRecord, ...], b: tuple[TurnRecord, ...]) -> Differences:
    clusters = [turn.dialogue for turn in a]
    if not _same(a, b) or any(turn.logprobs is None for turn in (*a, *b)):
        return {}
    return {"perplexity": _compare(_perplexity_of_rows(a), _perplexity_of_rows(b), clusters)}


def _of_replies(a: Evaluated, b: Evaluated) -> Differences:
    profile = a.result.settings.get("profile")
    if (
        not _same(a.generations, b.generations)
        or profile != b.result.settings.get("profile")
        or profile not in PROFILES
    ):
        return {}
    clusters = [one.dialogue for one in a.generations]
    f1 = [
        [unigram_f1(one.prediction, one.reference, PROFILES[profile].f1) for one in part.generations] for part in (a, b)
    ]
    left, right = (corpus_scores(_replies(part.generations), profile) for part in (a, b))
    corpora = {name: _compare(left[name], right[name], clusters, replace=name not in DISTINCT_METRICS) for name in left}
    return {"f1": _compare(f1[0], f1[1], clusters), **corpora}


def _compare(a: Scores, b: Scores, clusters: list[str], *, replace: bool = True) -> BootstrapResult:
    return paired_bootstrap(a, b, clusters, replace=replace, samples=SAMPLES, level=LEVEL)


def _same(
    a: tuple[TurnRecord, ...] | tuple[Generation, ...], b: tuple[TurnRecord, ...] | tuple[Generation, ...]
) -> bool:
    return [_turn(one) for one in a] == [_turn(one) for one in b] and len({one.dialogue for one in a}) > 1


def _turn(one: TurnRecord | Generation) -> tuple[str, int, str | int | None]:
    """Which turn it is, with its gold response or how long that is: ids are places in a file, and alike in all files."""
    return one.dialogue, one.turn, one.bytes if isinstance(one, TurnRecord) else one.reference


def _replies(generations: tuple[Generation, ...]) -> list[Reply]:
    return [Reply(one.prediction, one.reference, one.persona, one.dialogue, one.turn) for one in generations]


def _perplexity_of_rows(turns: tuple[TurnRecord, ...]) -> Callable[[NDArray[np.intp]], float]:
    nll = np.array([-(turn.logprobs or ())[turn.prompt] for turn in turns])
    tokens = np.array([turn.tokens or 0 for turn in turns])
    return lambda rows: math.exp(float(nll[rows].sum()) / max(1, int(tokens[rows].sum())))
