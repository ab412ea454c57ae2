"""`sptune rerank`: choose among kept candidates again, with other weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sptune.cli.evaluate import Profile
from sptune.cli.figures import echo_tables, progress_bars
from sptune.cli.rerank_table import WEIGHTS
from sptune.errors import UsageError

if TYPE_CHECKING:
    from sptune.evaluation.generation import Generation
    from sptune.evaluation.rerank import TurnCandidates

Candidates = Annotated[
    list[Path],
    typer.Argument(
        metavar="CANDIDATES", help="A candidates.jsonl, or the folder of an evaluation that has one; one a seed."
    ),
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
    list[Path] | None,
    typer.Option(
        help="A generations.jsonl of the same turns, one a seed: also how much F1 is above it, with its 95% interval, and the mean gain, best first."
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE.png", help="Also draw F1 against DIST of every choice, as a picture."),
]
Bertscore = Annotated[str | None, typer.Option(help="Encoder for BERTScore: a folder, or a downloaded hub id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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

    Choose weights on validation dialogues, never on those that you report. Give the candidates of several training seeds for their means.

    \b
    Keys: likelihood (top1, fused, gated, mixture), length_power, prior_weight, consensus_weight, persona_weight.
    Examples:
      sptune evaluate ADAPTER --data valid.txt --split 701:750 --parts generation --decoding rerank --output tune
      sptune rerank tune --try prior_weight=0,0.25,0.5 --try consensus_weight=0,5,10,20 --similarity rouge
      sptune rerank tune --try consensus_weight=0,5,10 --against greedy/generations.jsonl
      sptune rerank tune --try prior_weight=0.75,1,1.5 --try length_power=0.75,1 --plot trade-off.png
      sptune rerank tune-0 tune-1 tune-2 --try prior_weight=0.75,1,1.5
    """
    from sptune.cli.rerank_table import Row, draw, mean_paper_gain, table
    from sptune.evaluation.reweigh import f1_difference, measure_seeds, weigh, weights_grid, with_similarity

    grid = weights_grid(_values(tries or []))
    if plot:
        _check_plot(plot)
    seeds = _read(candidates)
    if similarity:
        known = _known_similarity(similarity)
        seeds = [with_similarity(turns, known) for turns in seeds]
    base = None
    if against:
        replies = _read_replies(against, seeds[0])
        base = measure_seeds(replies, profile=profile, bertscore_model=bertscore_model)
    with progress_bars("choices of weights") as progress:
        weighed = weigh(seeds, grid, profile=profile, bertscore_model=bertscore_model, progress=progress)
        rows = [
            Row(one, mean_paper_gain(one.replies, base), f1_difference(one.replies, base)) if base else Row(one)
            for one in weighed
        ]
    if base:
        rows.sort(key=lambda row: -(row.gain or 0.0))
    if plot:
        draw(plot, rows, base)
        typer.echo(f"{plot}: F1 against DIST, {len(rows)} choices of weights", err=True)
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in rows], indent=2))
        return
    drawn = sum(len(turn.candidates) for turns in seeds for turn in turns) / sum(map(len, seeds))
    names = ", ".join(map(str, candidates))
    echo_tables(f"{names}: {len(seeds[0])} turns, {drawn:.1f} candidates each, {profile} rules", [table(rows, base)])


def _values(tries: Sequence[str]) -> dict[str, list[Any]]:
    """Fields of `RerankWeights` -> values, of `--try KEY=V1,V2`.

    Raises:
        UsageError: not of that form, an unknown or repeated key, or a value that is no number.
    """
    found: dict[str, list[Any]] = {}
    for text in tries:
        name, _, values = text.partition("=")
        if name not in WEIGHTS or not values:
            raise UsageError(f"--try: {text!r} is not KEY=V1,V2 with a KEY of {', '.join(WEIGHTS)}")
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


def _read(paths: Sequence[Path]) -> list[list[TurnCandidates]]:
    """The candidates of each file, or of the folder that has one.

    Raises:
        UsageError: they are not of the same turns.
    """
    from sptune.evaluation.records import read_records
    from sptune.evaluation.rerank import TurnCandidates
    from sptune.evaluation.result import CANDIDATES_NAME

    files = [path / CANDIDATES_NAME if path.is_dir() else path for path in paths]
    seeds = [read_records(file, TurnCandidates) for file in files]
    for file, turns in zip(files, seeds, strict=True):
        _check_turns("CANDIDATES", file, seeds[0], turns)
    return seeds


def _read_replies(paths: Sequence[Path], turns: Sequence[TurnCandidates]) -> list[list[Generation]]:
    """The replies of each file.

    Raises:
        UsageError: they answer other turns than `turns`.
    """
    from sptune.evaluation.generation import Generation
    from sptune.evaluation.records import read_records

    seeds = [read_records(path, Generation) for path in paths]
    for path, replies in zip(paths, seeds, strict=True):
        _check_turns("--against", path, turns, replies)
    return seeds


def _check_turns(
    option: str, path: Path, turns: Sequence[TurnCandidates], others: Sequence[TurnCandidates | Generation]
) -> None:
    from sptune.evaluation.reweigh import first_difference

    if other := first_difference(turns, others):
        raise UsageError(f"{option}: {path} is of other turns: {other}; give files of the same dialogues")


def _check_plot(path: Path) -> None:
    """Refuse what is no picture's name before minutes of measuring."""
    if path.suffix != ".png" or path.is_dir():
        raise UsageError(f"--plot: {path} cannot be a picture; name a file that ends in .png")
