"""Choice of prompts: does the retriever beat chance and the best single prompt, and what would other ways to use them give?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sptune.config.compare import TOP1
from sptune.evaluation.significance import BootstrapResult
from sptune.experiments.report.columns import SPECS
from sptune.experiments.report.controls import Controls
from sptune.experiments.report.findings import ALPHA
from sptune.experiments.report.folder import Comparison
from sptune.experiments.report.system import over_seeds
from sptune.experiments.report.writing import DASH, figure_cell, interval, listed, p_text
from sptune.report.document import (
    Block,
    Bullets,
    Cell,
    Details,
    Paragraph,
    Row,
    Section,
    Table,
    Tone,
    signed,
    table_row,
)
from sptune.report.metric_specs import BETTER_MARK, value_of
from sptune.report.overview import COLLAPSE_SHARE

_COLUMNS = {
    "chosen": "chosen",
    "random": "random",
    "validated_single": "best on validation",
    "best_single": "best single",
    "oracle": "oracle",
    "fused": "fused",
    "gated": "gated",
    "mixture": "drawn from the gate",
    "probe": "probe, hidden state",
    "embedding_probe": "probe, embedding",
}
_DECODING_METRICS = ("f1", "bleu", "rougeL", "dist1", "dist2", "ead2", "persona_recall", "words", "hits_at_1")
_EXPLAINED = {
    "chosen": "by the retriever, for every turn",
    "random": "expected of a random prompt for every turn",
    "best on validation": "always the one prompt that is best for the validation turns",
    "best single": "always the one prompt that is best for the test turns; known in hindsight",
    "oracle": "the best prompt of every turn; known in hindsight, and not a target: much of it cannot be known from the context",
    "fused": "the average of the K distributions at every token",
    "gated": "the average of the K distributions at every token, weighted by the gate: the softmax of the scores",
    "drawn from the gate": "whole responses, each by one prompt that is drawn from the gate",
    "probe, hidden state": "the prompts that a ridge regression, fitted on other turns, picks from the bare model's last hidden state",
    "probe, embedding": "likewise, from the mean word embedding of the context",
}
_LEGEND = (
    "Perplexities of the human responses, means over the seeds (lower is better). With a difference stands its 95% interval; "
    "p is paired by dialogue, two-sided and not corrected: each adapter is compared with itself."
)
_CHOICE_LEGEND = (
    "Best prompt chosen: share of turns whose chosen prompt has the lowest cost; always the same: the most that one prompt for all turns "
    "reaches. Evenness: entropy of the shares / log K (1: all equally often, 0: one for all). Shares are sorted, then averaged over the seeds."
)
_MOST_SHARES = 4
_EXPLANATIONS = tuple(table_row(name, text) for name, text in _EXPLAINED.items())


def controls_section(comparison: Comparison, controls: Sequence[Controls], plots: Sequence[Block]) -> Section | None:
    """The controls of all systems with more than one prompt; None where there is no such system."""
    decodings = _decodings(comparison)
    blocks: list[Block] = []
    if controls:
        blocks += [
            Bullets(tuple(f"{one.system.name}: {sentence(one)}" for one in controls)),
            _perplexities(controls),
            *([_differences(controls)] if any(one.against for one in controls) else []),
            Paragraph(_LEGEND),
            Details("What the ways to use the prompts are", (Table(("way", "what it is"), _EXPLANATIONS, wordy=True),)),
            _choices(controls),
            Paragraph(_CHOICE_LEGEND),
            *plots,
        ]
    if decodings:
        blocks += [
            Paragraph(
                "The same adapters with other ways to choose or join their prompts, beside those in the tables above:"
            ),
            decodings,
        ]
    return Section("Choice of prompts", tuple(blocks)) if blocks else None


def sentence(one: Controls) -> str:
    """Whether choosing beats chance, the best single prompt, and what a probe can tell from the context."""
    names = {"random": "a random prompt", "best_single": "the best single prompt", "probe": "the offline probe"}
    verdicts: dict[str, list[str]] = {"beats": [], "is worse than": [], "is no different from": []}
    for name, label in names.items():
        if name in one.against:
            verdicts[_verdict(one.against[name])].append(label)
    known = [f"{verdict} {listed(labels)}" for verdict, labels in verdicts.items() if labels]
    text = f"choosing for every turn {'; it '.join(known)}" if known else "the choice has no figures of single turns"
    if one.usage[0] >= COLLAPSE_SHARE:
        text += f"; one prompt is chosen in {one.usage[0]:.0%} of turns, which amounts to plain prompt tuning"
    return f"{text}."


def _clear(found: BootstrapResult) -> bool:
    return found.p_value < ALPHA and not found.holds_zero


def _verdict(found: BootstrapResult) -> str:
    if not _clear(found):
        return "is no different from"
    return "beats" if found.difference < 0 else "is worse than"


def _perplexities(controls: Sequence[Controls]) -> Table:
    shown = {name: label for name, label in _COLUMNS.items() if any(one.perplexity.get(name) for one in controls)}
    rows = [
        Row(
            (
                Cell(one.system.name),
                Cell(str(one.system.prompts)),
                *(figure_cell(one.perplexity[name], 2) for name in shown),
            )
        )
        for one in controls
    ]
    return Table(("perplexity", "K", *shown.values()), tuple(rows))


def _differences(controls: Sequence[Controls]) -> Table:
    names = {
        "random": "random",
        "validated_single": "best on validation",
        "best_single": "best single",
        "probe": "probe",
    }
    shown = {name: label for name, label in names.items() if any(name in one.against for one in controls)}
    rows = [
        Row((Cell(one.system.name), *(_difference(one.against.get(name)) for name in shown)))
        for one in controls
        if one.against
    ]
    return Table(("chosen minus", *shown.values()), tuple(rows))


def _difference(found: BootstrapResult | None) -> Cell:
    if found is None:
        return Cell(DASH)
    better: Tone = "better" if found.difference < 0 else "worse"
    text = f"{signed(found.difference, 2)}, {p_text(found.p_value)}"
    return Cell(text, better if _clear(found) else "plain", interval(found, 2))


def _choices(controls: Sequence[Controls]) -> Table:
    columns = ("choice", "best prompt chosen", "by chance", "always the same", "evenness", "shares of the turns")
    return Table(columns, tuple(Row(tuple(_choice(one))) for one in controls))


def _choice(one: Controls) -> Iterator[Cell]:
    yield Cell(one.system.name)
    yield Cell(DASH if one.agreement is None else f"{one.agreement.mean:.0%}")
    yield Cell(f"{1 / one.system.prompts:.0%}")
    yield Cell(DASH if one.always_same is None else f"{one.always_same.mean:.0%}")
    yield figure_cell(one.evenness, 2)
    more = ", …" if len(one.usage) > _MOST_SHARES else ""
    yield Cell(", ".join(f"{share:.0%}" for share in one.usage[:_MOST_SHARES]) + more)


def _decodings(comparison: Comparison) -> Table | None:
    """The figures of every decoding that is no system of its own."""
    rows = []
    found = [one.result for cell in comparison.cells for one in cell.evaluations.values()]
    specs = [SPECS[key] for key in _DECODING_METRICS if any(value_of(one, SPECS[key]) is not None for one in found)]
    for system in comparison.under_top1:
        names = [name for name in system.cells[0].evaluations if all(name in cell.evaluations for cell in system.cells)]
        names = [name for name in names if name == TOP1 or name not in comparison.decodings_of(system)]
        if len(names) > 1:
            rows.append(Row((Cell(system.name),), heading=True))
        for name in names if len(names) > 1 else ():
            results = [cell.evaluations[name].result for cell in system.cells]
            values = [over_seeds([value_of(result, spec) for result in results]) for spec in specs]
            label = f"{name} (the tables above)" if name == TOP1 else name
            rows.append(
                Row(
                    (
                        Cell(label),
                        *(figure_cell(value, spec.decimals) for value, spec in zip(values, specs, strict=True)),
                    )
                )
            )
    columns = ("", *(f"{spec.label} {BETTER_MARK[spec.better]}" for spec in specs))
    return Table(columns, tuple(rows)) if rows else None
