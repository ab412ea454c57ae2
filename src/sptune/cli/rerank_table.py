"""What `sptune rerank` shows: the replies of every choice of weights, as a table, a picture or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sptune.evaluation.reweigh import Measured, Weighed
    from sptune.evaluation.significance import BootstrapResult
    from sptune.evaluation.table import Table

WEIGHTS = ("likelihood", "length_power", "prior_weight", "consensus_weight", "persona_weight")
"""As recipes and options call the fields of `RerankWeights`, in their order."""
SHORT = {"ead1": "EAD-1", "ead2": "EAD-2", "words": "words"}
SHOWN = ("f1", "bleu", "rouge1", "rouge2", "rougeL", "bertscore_f1", "dist1", "dist2", "ead1", "ead2", "words")


@dataclass(frozen=True, slots=True)
class Row:
    """A choice of weights, and how its replies compare with others where there are such.

    Attributes:
        weighed: the weights and the figures.
        gain: mean gain, in percent.
        f1: how much more F1, in points; None also where the interval needs more dialogues.
    """

    weighed: Weighed
    gain: float | None = None
    f1: BootstrapResult | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        found = {"weights": asdict(self.weighed.weights), "values": self.weighed.replies.values, "gain": self.gain}
        return found | {"f1_difference": asdict(self.f1) if self.f1 else None}


def mean_paper_gain(own: Measured, other: Measured) -> float:
    """Mean gain in percent over those of the paper's ten metrics that both have."""
    from sptune.experiments.report.columns import PAPER
    from sptune.experiments.report.gains import mean_gain

    shared = [spec.key for spec in PAPER if spec.key in own.values and spec.key in other.values]
    return mean_gain(own.values, other.values, shared)


def table(rows: Sequence[Row], base: Measured | None) -> Table:
    """A line for each choice of weights, then the other replies and the human responses."""
    from sptune.evaluation.table import DIVERSITY, OVERLAP, Table

    labels = OVERLAP | DIVERSITY | SHORT
    varied, fixed = _weights(rows)
    shown = [name for name in SHOWN if name in rows[0].weighed.replies.values]
    further = ("F1 above it (95%)", "mean gain, %") if base else ()
    lines = [
        (*texts, *(f"{row.weighed.replies.values[name]:.2f}" for name in shown), *(_compared(row) if base else ()))
        for texts, row in zip(zip(*varied.values(), strict=True), rows, strict=True)
    ]
    for name, values in (("against", base and base.values), ("human", rows[0].weighed.replies.human)):
        if values:
            figures = (f"{values[key]:.2f}" if key in values else "" for key in shown)
            lines.append((name, *[""] * (len(varied) - 1), *figures, *[""] * len(further)))
    constant = ", ".join(f"{name} {value}" for name, value in fixed.items())
    columns = (*varied, *(labels[name] for name in shown), *further)
    return Table(f"Replies by weights{f' ({constant})' if constant else ''}", columns, tuple(lines))


def draw(path: Path, rows: Sequence[Row], base: Measured | None) -> None:
    """F1 against DIST of every choice of weights, as a picture."""
    from sptune.report.plots.style import LIGHT, save_png
    from sptune.report.plots.trade_off import Traded, plot_trade_off

    def traded(name: str, values: Mapping[str, float]) -> Traded:
        return Traded(name, values["f1"], values["dist2"], values["ead2"])

    varied, _ = _weights(rows)
    names = map(", ".join, zip(*varied.values(), strict=True))
    human = rows[0].weighed.replies.human
    figure = plot_trade_off(
        [traded(name, row.weighed.replies.values) for name, row in zip(names, rows, strict=True)],
        labels=", ".join(varied),
        human=(human["dist2"], human["ead2"]),
        theme=LIGHT,
        against=traded("against", base.values) if base else None,
    )
    save_png(figure, path)


def _weights(rows: Sequence[Row]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The weights that differ between rows with their value in each, and those that do not; all differ where there is one row."""
    values = (
        [f"{one:g}" if isinstance(one, float) else one for one in asdict(row.weighed.weights).values()] for row in rows
    )
    columns = dict(zip(WEIGHTS, zip(*values, strict=True), strict=True))
    varied = {name: column for name, column in columns.items() if len(set(column)) > 1} or columns
    return varied, {name: column[0] for name, column in columns.items() if name not in varied}


def _compared(row: Row) -> tuple[str, str]:
    from sptune.experiments.report.writing import interval
    from sptune.report.document import signed

    f1 = f"{signed(row.f1.difference, 2)} ({interval(row.f1, 2)})" if row.f1 else ""
    return f1, signed(row.gain or 0.0, 1)
