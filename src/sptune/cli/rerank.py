"""`sptune rerank`: choose among kept candidates again, with other weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sptune.cli.evaluate import Profile
from sptune.cli.figures import echo_tables, progress_bars
from sptune.errors import UsageError

if TYPE_CHECKING:
    from sptune.evaluation.generation import Generation
    from sptune.evaluation.rerank import TurnCandidates
    from sptune.evaluation.reweigh import Weighed
    from sptune.evaluation.table import Table

Candidates = Annotated[
    Path, typer.Argument(metavar="CANDIDATES", help="A candidates.jsonl, or the folder of an evaluation that has one.")
]
Try = Annotated[
    list[str] | None,
    typer.Option("--try", metavar="KEY=V1,V2", help="Values of a weight; repeatable, every combination is tried."),
]
Similarity = Annotated[
    str | None,
    typer.Option(help="Of the consensus: f1, rouge, bleu or chrf, measured again; as it was kept if not given."),
]
Against = Annotated[
    Path | None,
    typer.Option(help="A generations.jsonl of the same turns: also the mean gain over it, best first."),
]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE.png", help="Also draw F1 against DIST of every choice, as a picture."),
]
Bertscore = Annotated[str | None, typer.Option(help="Encoder for BERTScore: a folder, or a downloaded hub id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

NAMES = ("likelihood", "length_power", "prior_weight", "consensus_weight", "persona_weight")
SHORT = {"ead1": "EAD-1", "ead2": "EAD-2", "words": "words"}
SHOWN = ("f1", "bleu", "rouge1", "rouge2", "rougeL", "bertscore_f1", "dist1", "dist2", "ead1", "ead2", "words")


def rerank(  # noqa: PLR0913, PLR0917 - one parameter an option
    candidates: Candidates,
    tries: Try = None,
    similarity: Similarity = None,
    against: Against = None,
    plot: Plot = None,
    profile: Profile = "paper",
    bertscore_model: Bertscore = None,
    as_json: AsJson = False,
) -> None:
    """Choose among candidates that an evaluation kept, with other weights, and measure the replies; no model runs.

    Choose weights on validation dialogues, never on those that you report.

    \b
    Keys: likelihood (top1, fused, gated, mixture), length_power, prior_weight, consensus_weight, persona_weight.
    Examples:
      sptune evaluate ADAPTER --data valid.txt --split 701:750 --parts generation --decoding rerank --output tune
      sptune rerank tune --try prior_weight=0,0.25,0.5 --try consensus_weight=0,5,10,20 --similarity rouge
      sptune rerank tune --try consensus_weight=0,5,10 --against greedy/generations.jsonl
      sptune rerank tune --try prior_weight=0.75,1,1.5 --try length_power=0.75,1 --plot trade-off.png
    """
    from sptune.evaluation.records import read_records
    from sptune.evaluation.rerank import TurnCandidates
    from sptune.evaluation.result import CANDIDATES_NAME
    from sptune.evaluation.reweigh import weigh, weights_grid, with_similarity

    grid = weights_grid(_values(tries or []))
    if plot:
        _check_plot(plot)
    path = candidates / CANDIDATES_NAME if candidates.is_dir() else candidates
    turns = read_records(path, TurnCandidates)
    if similarity:
        turns = with_similarity(turns, _known_similarity(similarity))
    base = _figures(against, turns, profile, bertscore_model) if against else None
    with progress_bars("choices of weights") as progress:
        weighed = weigh(turns, grid, profile=profile, bertscore_model=bertscore_model, progress=progress)
        rows = [(one, _gain(one.values, base)) for one in weighed]
    if base:
        rows.sort(key=lambda row: -(row[1] or 0.0))
    if plot:
        _draw(plot, rows, base)
    if as_json:
        found = [{"weights": asdict(one.weights), "values": one.values, "gain": gain} for one, gain in rows]
        typer.echo(json.dumps(found, indent=2))
        return
    drawn = sum(len(turn.candidates) for turn in turns) / len(turns)
    echo_tables(f"{path}: {len(turns)} turns, {drawn:.1f} candidates each, {profile} rules", [_table(rows, base)])


def _values(tries: Sequence[str]) -> dict[str, list[Any]]:
    """Fields of `RerankWeights` -> values, of `--try KEY=V1,V2`.

    Raises:
        UsageError: not of that form, an unknown or repeated key, or a value that is no number.
    """
    found: dict[str, list[Any]] = {}
    for text in tries:
        name, _, values = text.partition("=")
        if name not in NAMES or not values:
            raise UsageError(f"--try: {text!r} is not KEY=V1,V2 with a KEY of {', '.join(NAMES)}")
        field = name.removesuffix("_weight")
        if field in found:
            raise UsageError(f"--try: {name} is there twice; give all its values in one, {name}=V1,V2")
        found[field] = [one if name == "likelihood" else _number(name, one) for one in values.split(",")]
    return found


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--try {name}: {text!r} is no number") from None


def _known_similarity(name: str) -> Any:
    from typing import get_args

    from sptune.evaluation.rerank import Similarity as Known

    if name not in get_args(Known):
        raise UsageError(f"--similarity: {name!r} is not one of {', '.join(get_args(Known))}")
    return name


def _figures(
    path: Path, turns: Sequence[TurnCandidates], profile: str, bertscore_model: str | None
) -> dict[str, float]:
    """The figures of the replies in `path`.

    Raises:
        UsageError: they answer other turns than `turns`.
    """
    from sptune.evaluation.generation import Generation, measure
    from sptune.evaluation.records import read_records

    replies = read_records(path, Generation)
    if other := _first_difference(turns, replies):
        raise UsageError(f"--against: {path} is of other turns: {other}; give replies to the same dialogues")
    return measure(replies, profile=profile, bertscore_model=bertscore_model).values


def _first_difference(turns: Sequence[TurnCandidates], replies: Sequence[Generation]) -> str | None:
    """The first turn that only one of both has, in words. Other data may number its dialogues alike, so gold responses count too."""
    ours, theirs = ({(one.dialogue, one.turn): one.reference for one in many} for many in (turns, replies))
    for dialogue, turn in {**ours, **theirs}:
        place = f"dialogue {dialogue!r}, turn {turn}"
        if (dialogue, turn) not in theirs:
            return f"{place} has candidates, but no reply there"
        if (dialogue, turn) not in ours:
            return f"{place} has a reply there, but no candidates"
        if ours[dialogue, turn] != theirs[dialogue, turn]:
            return f"{place} has another gold response there"
    return None


def _gain(values: Mapping[str, float], base: Mapping[str, float] | None) -> float | None:
    """Mean gain in percent over those of the paper's ten metrics that both have."""
    from sptune.experiments.report.columns import PAPER
    from sptune.experiments.report.gains import mean_gain

    if base is None:
        return None
    return mean_gain(values, base, [spec.key for spec in PAPER if spec.key in values and spec.key in base])


def _weights(rows: Sequence[tuple[Weighed, float | None]]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The weights that differ between rows with their value in each, and those that do not; all differ where there is one row."""
    values = (
        [f"{one:g}" if isinstance(one, float) else one for one in asdict(row.weights).values()] for row, _ in rows
    )
    columns = dict(zip(NAMES, zip(*values, strict=True), strict=True))
    varied = {name: column for name, column in columns.items() if len(set(column)) > 1} or columns
    return varied, {name: column[0] for name, column in columns.items() if name not in varied}


def _table(rows: Sequence[tuple[Weighed, float | None]], base: Mapping[str, float] | None) -> Table:
    from sptune.evaluation.table import DIVERSITY, OVERLAP, Table

    labels = OVERLAP | DIVERSITY | SHORT
    varied, fixed = _weights(rows)
    shown = [name for name in SHOWN if name in rows[0][0].values]
    columns = (*varied, *(labels[name] for name in shown), *(["mean gain, %"] if base else []))
    lines = [
        (*texts, *(f"{one.values[name]:.2f}" for name in shown), *([] if gain is None else [f"{gain:+z.1f}"]))
        for texts, (one, gain) in zip(zip(*varied.values(), strict=True), rows, strict=True)
    ]
    for name, values in (("against", base), ("human", rows[0][0].human)):
        if values:
            figures = (f"{values[key]:.2f}" if key in values else "" for key in shown)
            lines.append((name, *[""] * (len(varied) - 1), *figures, *([""] if base else [])))
    constant = ", ".join(f"{name} {value}" for name, value in fixed.items())
    return Table(f"Replies by weights{f' ({constant})' if constant else ''}", columns, tuple(lines))


def _check_plot(path: Path) -> None:
    """Refuse what is no picture's name before minutes of measuring."""
    if path.suffix != ".png" or path.is_dir():
        raise UsageError(f"--plot: {path} cannot be a picture; name a file that ends in .png")


def _draw(path: Path, rows: Sequence[tuple[Weighed, float | None]], base: Mapping[str, float] | None) -> None:
    from sptune.report.plots.style import LIGHT, save_png
    from sptune.report.plots.trade_off import Traded, plot_trade_off

    def traded(name: str, values: Mapping[str, float]) -> Traded:
        return Traded(name, values["f1"], values["dist2"], values["ead2"])

    varied, _ = _weights(rows)
    names = map(", ".join, zip(*varied.values(), strict=True))
    human = rows[0][0].human
    figure = plot_trade_off(
        [traded(name, one.values) for name, (one, _) in zip(names, rows, strict=True)],
        labels=", ".join(varied),
        human=(human["dist2"], human["ead2"]),
        theme=LIGHT,
        against=traded("against", base) if base else None,
    )
    save_png(figure, path)
    typer.echo(f"{path}: F1 against DIST, {len(rows)} choices of weights", err=True)
