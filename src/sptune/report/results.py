"""What came of the run: the figures side by side, in a table, in bars, and the most telling ones by themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sptune.evaluation.result import EvaluationResult
from sptune.evaluation.significance import BootstrapResult
from sptune.report.differences import Differences, differences
from sptune.report.document import Block, Bullets, Cell, Details, Paragraph, Row, Section, Table, Tile, Tone, signed
from sptune.report.metric_specs import (
    BETTER_MARK,
    BETTER_TEXT,
    GROUPS,
    MAIN_METRICS,
    MetricSpec,
    find_spec,
    human_value,
    value_of,
    written,
)
from sptune.report.plots.comparison import Bar, Panel
from sptune.report.run_folder import BARE, MAIN, RunFolder

_LARGE_CHANGE = 500  # percent; a share of something tiny says nothing
_LABELS = {BARE: "bare model", MAIN: "SPT"}
_TILES = (("likelihood", "perplexity", "Perplexity"), ("metrics", "f1", "F1, %"), ("metrics", "dist2", "DIST-2, %"))


def label_of(name: str) -> str:
    """What the evaluation of that name is called in the report."""
    return _LABELS.get(name, name)


def results_section(run: RunFolder, found: Differences, plot: Block | None) -> Section | None:
    """The figures of all evaluations; None where there is none.

    Args:
        run: the run.
        found: differences between the adapter and the bare model.
        plot: the bars.
    """
    if not run.evaluations:
        return None
    results = [one.result for one in run.evaluations.values()]
    against = _against_others(run)
    blocks: list[Block] = [Paragraph(_what_was_measured(run)), _table(run, found), *([against] if against else [])]
    if found or against:
        blocks.append(
            Paragraph(
                "With a difference stands its 95% interval where it has one, from a paired bootstrap over whole dialogues. "
                "Better and worse are said only of differences whose interval leaves out 0: chance alone may explain the others."
            )
        )
    if plot:
        blocks.append(plot)
    missing = _missing(results)
    if missing:
        blocks.append(Details("Figures that were not computed, and how to get them", (Bullets(missing),)))
    rules = _rules(results)
    if rules:
        blocks.append(Details("How each figure is computed", (Table(("figure", "rule"), rules, wordy=True),)))
    return Section("Results", tuple(blocks))


def result_tiles(run: RunFolder, found: Differences) -> list[Tile]:
    """Perplexity, F1 and DIST-2 of the adapter, against the bare model's and the human responses'."""
    if not run.main:
        return []
    tiles = []
    for part, key, label in _TILES:
        spec = find_spec(part, key)
        value = value_of(run.main.result, spec)
        if value is None:
            continue
        bare = value_of(run.bare.result, spec) if run.bare else None
        human = human_value([run.main.result], spec)
        against = [f"bare model {written(bare, spec)}"] if bare is not None else []
        against += [f"human {written(human, spec)}"] if human is not None else []
        judged = _difference(spec, value, bare, human, found.get(key)).tone
        tiles.append(Tile(label, written(value, spec), ", ".join(against), judged))
    return tiles


def comparison_panels(run: RunFolder) -> list[Panel]:
    """The main metrics as bars, where at least one evaluation has them."""
    results = {name: one.result for name, one in run.evaluations.items()}
    panels = []
    for part, key, title in MAIN_METRICS:
        spec = find_spec(part, key)
        values = {name: value_of(result, spec) for name, result in results.items()}
        if all(value is None for value in values.values()):
            continue
        bars = [
            Bar(label_of(name), value, written(value, spec), "main" if name == MAIN else "other")
            for name, value in values.items()
        ]
        human = human_value(list(results.values()), spec)
        bars.append(Bar("human", human, written(human, spec), "human"))
        panels.append(Panel(title, BETTER_TEXT[spec.better], tuple(bars)))
    return panels


def tone(value: float, other: float | None, human: float | None, spec: MetricSpec) -> Tone:
    """Whether `value` is better or worse than `other`; plain where that cannot be said."""
    if other is None or value == other or not spec.better or (spec.better == "human" and human is None):
        return "plain"
    if spec.better == "human":
        return "better" if abs(value - (human or 0.0)) < abs(other - (human or 0.0)) else "worse"
    return "better" if (value < other) == (spec.better == "lower") else "worse"


def _what_was_measured(run: RunFolder) -> str:
    one = run.main or next(iter(run.evaluations.values()))
    data, settings = one.result.data, one.result.settings
    where = "generated replies that were kept"
    if data:
        split = f", dialogues {data.split}" if data.split else ""
        where = f"{data.turns:,} turns of {data.dialogues:,} dialogues ({data.path or 'in memory'}{split})"
    rules = f"text metrics by the rules `{settings.get('profile', 'unknown')}`"
    return f"Measured on {where}; replies are {_how_replies(one.result)}; {rules}. {_legend(run)}"


def _how_replies(result: EvaluationResult) -> str:
    decoding, candidates = result.settings.get("decoding") or {}, result.settings.get("rerank")
    how = "sampled" if decoding.get("temperature") else "decoded greedily"
    how = f"searched with {decoding['num_beams']} beams" if decoding.get("num_beams", 1) > 1 else how
    if candidates:
        how = f"the best of {candidates['sampling']['candidates']} candidates"
    elif decoding.get("kind") in ("fused", "gated") and result.model and result.model.prompts > 1:
        how += f" by all prompts together ({decoding['kind']})"
    return how + (f", at most {decoding['max_new_tokens']} new tokens" if "max_new_tokens" in decoding else "")


def _legend(run: RunFolder) -> str:
    others = [name for name in run.evaluations if name not in _LABELS]
    named = f" Further evaluations: {', '.join(others)}." if others else ""
    return (
        "↓ lower is better, ↑ higher is better, ≈ nearer to the human figure is better. The human column measures the "
        f"human responses themselves, where that needs no reference.{named}"
    )


def _table(run: RunFolder, found: Differences) -> Table:
    names = list(run.evaluations)
    compares = run.main is not None and run.bare is not None
    columns = ("", *(label_of(name) for name in names), "human", *(("SPT − bare model",) if compares else ()))
    rows: list[Row] = []
    for title, specs in GROUPS.items():
        group = [row for spec in specs if (row := _row(run, spec, found, compares))]
        rows += [Row((Cell(title),), heading=True), *group] if group else []
    return Table(columns, tuple(rows))


def _row(run: RunFolder, spec: MetricSpec, found: Differences, compares: bool) -> Row | None:
    results = [one.result for one in run.evaluations.values()]
    values = [value_of(result, spec) for result in results]
    if all(value is None for value in values):
        return None
    human = human_value(results, spec)
    cells = [Cell(f"{spec.label} {BETTER_MARK[spec.better]}".rstrip())]
    cells += [Cell(written(value, spec)) for value in (*values, human)]
    if compares:
        by_name = dict(zip(run.evaluations, values, strict=True))
        cells.append(_difference(spec, by_name[MAIN], by_name[BARE], human, found.get(spec.key)))
    return Row(tuple(cells))


def _difference(
    spec: MetricSpec, value: float | None, other: float | None, human: float | None, chance: BootstrapResult | None
) -> Cell:
    if value is None or other is None:
        return Cell("–")
    change = 100 * (value - other) / other if other > 0 else math.inf
    share = f" ({signed(change, 0)}%)" if abs(change) < _LARGE_CHANGE else ""
    clear = chance is not None and not chance.holds_zero
    judged = tone(value, other, human, spec) if clear else "plain"
    return Cell(f"{signed(value - other, spec.decimals)}{share}", judged, _interval(chance, spec))


def _against_others(run: RunFolder) -> Table | None:
    """The differences that the bootstrap speaks about, of SPT and each evaluation but the bare model's."""
    others = [one for name, one in run.evaluations.items() if name not in _LABELS]
    found = [differences(run.main, one) for one in others] if run.main else []
    if run.main is None or not any(found):
        return None
    rows = [Row((Cell("Against the further evaluations"),), heading=True)]
    for spec in (spec for group in GROUPS.values() for spec in group):
        if any(spec.key in one and spec.part in ("likelihood", "metrics") for one in found):
            value, human = value_of(run.main.result, spec), human_value([run.main.result], spec)
            pairs = zip(others, found, strict=True)
            cells = (_difference(spec, value, value_of(o.result, spec), human, f.get(spec.key)) for o, f in pairs)
            rows.append(Row((Cell(f"{spec.label} {BETTER_MARK[spec.better]}"), *cells)))
    return Table(("", *(f"SPT − {one.name}" for one in others)), tuple(rows))


def _interval(chance: BootstrapResult | None, spec: MetricSpec) -> str:
    return f"{signed(chance.low, spec.decimals)} to {signed(chance.high, spec.decimals)}" if chance else ""


def _missing(results: list[EvaluationResult]) -> tuple[str, ...]:
    reasons: dict[str, list[str]] = {}
    for result in results:
        for name, reason in {**result.missing, **(result.metrics.missing if result.metrics else {})}.items():
            names = reasons.setdefault(reason, [])
            names += [name] if name not in names else []
    return tuple(f"{', '.join(names)}: {reason}." for reason, names in reasons.items())


def _rules(results: list[EvaluationResult]) -> tuple[Row, ...]:
    report = next((result.metrics for result in results if result.metrics), None)
    if report is None:
        return ()
    return tuple(Row((Cell(label), Cell(report.rules[key]))) for key, label in _labels() if key in report.rules)


def _labels() -> Iterator[tuple[str, str]]:
    for group in GROUPS.values():
        for spec in group:
            if spec.part == "metrics":
                yield spec.key, spec.label
