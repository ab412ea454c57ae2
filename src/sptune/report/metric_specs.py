"""The figures of an evaluation that a report shows: name, unit, which direction is better, where the value is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sptune.evaluation.result import EvaluationResult
from sptune.evaluation.table import DIVERSITY, OVERLAP, PERSONA

Better = Literal["lower", "higher", "human", ""]

BETTER_TEXT = {"lower": "lower is better", "higher": "higher is better", "human": "nearer to human is better", "": ""}
BETTER_MARK = {"lower": "↓", "higher": "↑", "human": "≈", "": ""}


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A figure.

    Attributes:
        key: where it stands: a part of `EvaluationResult` and a name in it, or `metrics` and a metric.
        label: its name and unit.
        better: which direction is better.
        decimals: that are shown.
    """

    part: str
    key: str
    label: str
    better: Better
    decimals: int = 2


def _metrics(labels: dict[str, str], better: dict[str, Better], unit: str) -> tuple[MetricSpec, ...]:
    return tuple(
        MetricSpec(
            "metrics", key, label if "," in label or key == "words" else f"{label}{unit}", better.get(key, "higher")
        )
        for key, label in labels.items()
    )


_NOT_HIGHER: dict[str, Better] = {
    "self_bleu": "lower",
    "repetition": "lower",
    "words": "human",
    "empty": "lower",
    "copy_rate": "human",
}

GROUPS: dict[str, tuple[MetricSpec, ...]] = {
    "Likelihood of the human responses": (
        MetricSpec("likelihood", "perplexity", "perplexity, chosen prompt", "lower"),
        MetricSpec("likelihood", "bits_per_byte", "bits per byte", "lower", 3),
        MetricSpec("likelihood", "best_prompt_perplexity", "perplexity, best single prompt", "lower"),
        MetricSpec("likelihood", "random_perplexity", "perplexity, random prompt", "lower"),
        MetricSpec("likelihood", "fused_perplexity", "perplexity, fused prompts", "lower"),
        MetricSpec("likelihood", "oracle_perplexity", "perplexity, oracle (hindsight)", "lower"),
    ),
    "Ranking of the candidates": (
        MetricSpec("ranking", "hits_at_1", "hits@1, %", "higher"),
        MetricSpec("ranking", "hits_at_5", "hits@5, %", "higher"),
        MetricSpec("ranking", "hits_at_20", "hits@20, %", "higher"),
        MetricSpec("ranking", "mrr", "mean reciprocal rank, 0 to 1", "higher", 3),
    ),
    "Overlap with the human responses": _metrics(OVERLAP, {}, ", %"),
    "Diversity and form of the replies": _metrics(DIVERSITY, _NOT_HIGHER, ", %"),
    "Use of the persona": _metrics(PERSONA, _NOT_HIGHER, ", %"),
}

# what the plot compares, in this order: most people look at these
MAIN_METRICS = (
    ("likelihood", "perplexity", "Perplexity"),
    ("ranking", "hits_at_1", "hits@1 (%)"),
    ("metrics", "f1", "F1 (%)"),
    ("metrics", "bleu", "BLEU (%)"),
    ("metrics", "rougeL", "ROUGE-L (%)"),
    ("metrics", "dist2", "DIST-2 (%)"),
    ("metrics", "ead2", "DIST-2, adjusted (%)"),
    ("metrics", "persona_recall", "Persona recall (%)"),
    ("metrics", "words", "Words a reply"),
)


def find_spec(part: str, key: str) -> MetricSpec:
    """The figure of that part and name."""
    return next(spec for group in GROUPS.values() for spec in group if (spec.part, spec.key) == (part, key))


def value_of(result: EvaluationResult, spec: MetricSpec) -> float | None:
    """The figure in `result`; None where it was not computed, or says nothing (a choice among one prompt)."""
    if spec.part == "metrics":
        return result.metrics.values.get(spec.key) if result.metrics else None
    holder = getattr(result, spec.part)
    if holder is None:
        return None
    if spec.part == "likelihood" and spec.key.endswith("_perplexity") and len(holder.prompt_perplexity) == 1:
        return None
    return float(getattr(holder, spec.key))


def human_value(results: list[EvaluationResult], spec: MetricSpec) -> float | None:
    """The same figure of the human responses, where it needs no reference; of the first result that has it."""
    found = (result.metrics.human.get(spec.key) for result in results if result.metrics and spec.part == "metrics")
    return next((value for value in found if value is not None), None)


def written(value: float | None, spec: MetricSpec) -> str:
    """The value in writing; a dash where there is none.

    >>> written(None, find_spec("metrics", "f1")), written(17.126, find_spec("metrics", "f1"))
    ('–', '17.13')
    """
    return "–" if value is None else f"{value:,.{spec.decimals}f}"
