"""`sptune evaluate`: figures of an adapter or a bare model on dialogues, or metrics of replies made before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sptune.cli.decoding import make_decoding, rerank_keys
from sptune.cli.figures import echo_tables, progress_bars
from sptune.errors import UsageError

if TYPE_CHECKING:
    from sptune.data.dialogue import Dialogue
    from sptune.evaluation.candidate_replies import Reranking
    from sptune.evaluation.generation import GenerationInterrupted
    from sptune.evaluation.result import EvaluationResult
    from sptune.evaluation.run import Settings, Source
    from sptune.model.spt import SPTModel

DECODINGS = ("top1", "fused", "gated", "rerank")
BESIDE_FROM = ("from_file", "output", "force", "profile", "bertscore_model", "seed", "as_json")
DTYPES = ("auto", "bfloat16", "float16", "float32")

Adapter = Annotated[str | None, typer.Argument(metavar="[ADAPTER]", help="An adapter folder, or a hub id owner/name.")]
Data = Annotated[str | None, typer.Option(help="Dialogue file, sample:test, or hub:owner/name.")]
From = Annotated[
    Path | None,
    typer.Option("--from", help="Measure these generations.jsonl again; needs no model, and takes no option of one."),
]
Split = Annotated[str | None, typer.Option(help="Dialogues A:B, counted from 1, both included.")]
Base = Annotated[
    str | None,
    typer.Option(help="With ADAPTER: where its base model lies. Alone: evaluate that model without any prompt."),
]
Template = Annotated[str | None, typer.Option(help="Of a model without adapter: paper (default) or chat.")]
Output = Annotated[
    Path | None, typer.Option(help="Folder for evaluation.json, turns.jsonl, generations.jsonl and candidates.jsonl.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an evaluation that is in the output folder.")]
Parts = Annotated[str, typer.Option(help="What to do, separated by commas.")]
Profile = Annotated[str, typer.Option(help="Rules of the text metrics: paper or standard.")]
Rule = Annotated[str, typer.Option(help="How a prompt is chosen from the scores: top1, sample or random.")]
Prompt = Annotated[int | None, typer.Option(help="Force this prompt, counted from 0.")]
MaxNewTokens = Annotated[int, typer.Option(help="The most tokens of a reply.")]
Beams = Annotated[int, typer.Option(help="Beam search with that many beams; 1 is greedy.")]
Decode = Annotated[
    str | None,
    typer.Option(
        "--decoding",
        help="Who speaks: top1 (the chosen prompt), fused, gated (all prompts) or rerank; as the adapter is meant if not given.",
    ),
]
GateTemperature = Annotated[
    float | None, typer.Option(help="Of the gate softmax(scores / temperature); the adapter's own if not given.")
]
NoRepeatNgram = Annotated[int, typer.Option(help="Forbid n-grams of that length that are in the reply already.")]
NoRepeatHistoryNgram = Annotated[int, typer.Option(help="Forbid n-grams that the speaker said earlier.")]
Rerank = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE", help="With --decoding rerank: a key of evaluation.rerank in a recipe; repeatable."
    ),
]
BertscoreModel = Annotated[str | None, typer.Option(help="Encoder for BERTScore: a folder, or a downloaded hub id.")]
Format = Annotated[
    str,
    typer.Option(help="Of the data: auto, convai2, messages, sharegpt, personachat, xpersona, msc, synthetic or hub."),
]
Persona = Annotated[str, typer.Option(help="Whose persona to read: self, other, both or none.")]
OnError = Annotated[str, typer.Option(help="stop, or skip to leave out dialogues with errors.")]
Limit = Annotated[int | None, typer.Option(help="Evaluate the first so many dialogues.")]
Seed = Annotated[int, typer.Option(help="Of --rule sample and random, of candidates, and of self-BLEU's sample.")]
Dtype = Annotated[str, typer.Option(help="Of the base model: auto, bfloat16, float16 or float32.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
TokenBudget = Annotated[int, typer.Option(help="The most tokens of a batch; lower it if memory runs out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print evaluation.json instead of tables.")]


def evaluate(  # noqa: PLR0913, PLR0917 - one parameter an option
    context: typer.Context,
    adapter: Adapter = None,
    data: Data = None,
    from_file: From = None,
    split: Split = None,
    base: Base = None,
    template: Template = None,
    output: Output = None,
    force: Force = False,
    parts: Parts = "likelihood,ranking,generation",
    profile: Profile = "paper",
    rule: Rule = "top1",
    prompt: Prompt = None,
    max_new_tokens: MaxNewTokens = 32,
    beams: Beams = 1,
    decoding: Decode = None,
    gate_temperature: GateTemperature = None,
    no_repeat_ngram: NoRepeatNgram = 0,
    no_repeat_history_ngram: NoRepeatHistoryNgram = 0,
    rerank: Rerank = None,
    bertscore_model: BertscoreModel = None,
    format: Format = "auto",
    persona: Persona = "self",
    on_error: OnError = "stop",
    limit: Limit = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    token_budget: TokenBudget = 8192,
    as_json: AsJson = False,
) -> None:
    """Perplexity, selection, ranking and text metrics of an adapter, of a bare model, or of replies made before.

    \b
    Examples:
      sptune evaluate runs/quickstart/adapter --data sample:test
      sptune evaluate ADAPTER --data valid.txt --split 751:800 --output runs/test
      sptune evaluate --base smollm2-135m --data valid.txt --parts likelihood
      sptune evaluate ADAPTER --data valid.txt --prompt 2 --beams 10
      sptune evaluate ADAPTER --data valid.txt --decoding fused
      sptune evaluate ADAPTER --data valid.txt --decoding rerank --rerank candidates=16 --rerank prior_weight=0.3
      sptune evaluate --from runs/test/generations.jsonl --profile standard
    """
    from sptune.evaluation.run import Settings, Source

    if from_file:
        _refuse_beside_from(context)
    reranking = _reranking(decoding, rerank or [], seed)
    settings = Settings(
        parts=tuple(part.strip() for part in parts.split(",")),  # type: ignore[misc]  # Settings checks its values
        profile=profile,
        decoding=make_decoding(
            max_new_tokens=max_new_tokens,
            num_beams=beams,
            no_repeat_ngram_size=no_repeat_ngram,
            no_repeat_history_ngram=no_repeat_history_ngram,
            kind="top1" if reranking else decoding,
            gate_temperature=gate_temperature,
        ),
        rerank=reranking,
        rule=rule,  # type: ignore[arg-type]
        prompt=prompt,
        bertscore_model=bertscore_model,
        seed=seed,
        limit=limit,
        token_budget=token_budget,
    )
    _check_free(output, force)
    if from_file:
        result = _measure_again(from_file, settings, output)
    else:
        dialogues = _load_dialogues(data, format=format, persona=persona, on_error=on_error, split=split)
        model = _load_model(adapter, base, template, dtype, device)
        with _interruptible():
            result = _evaluate(model, dialogues, settings, Source(adapter, data, split, persona), output)
    _print(result, as_json)
    if output is None:
        typer.echo("nothing was kept; --output FOLDER keeps the replies and every figure", err=True)


def _reranking(decoding: str | None, changes: list[str], seed: int) -> Reranking | None:
    """What `--rerank` asks for, checked as in a recipe; None where candidates are not asked for."""
    if decoding is not None and decoding not in DECODINGS:
        raise UsageError(f"--decoding: {decoding!r} is not one of {', '.join(DECODINGS)}")
    if decoding != "rerank":
        if changes:
            raise UsageError(
                f"--rerank: {changes[0]!r} has no meaning with --decoding {decoding or 'as the adapter is meant'}; use --decoding rerank"
            )
        return None
    from sptune.build import make_reranking
    from sptune.config import RerankSection

    return make_reranking(RerankSection.model_validate(rerank_keys(changes)), seed=seed)


def _check_free(output: Path | None, force: bool) -> None:
    """Refuse a folder that holds an evaluation before anything is computed."""
    from sptune.evaluation.result import PARTIAL_CANDIDATES_NAME
    from sptune.evaluation.run import occupied

    found = occupied(output) if output and not force else []
    if found:
        stopped = any(path.name == PARTIAL_CANDIDATES_NAME for path in found)
        forced = (
            "to go on with its candidates, where nothing that they depend on changed"
            if stopped
            else "to replace that evaluation"
        )
        raise UsageError(f"--output: {found[0]} exists; use --force {forced}, or name another folder")


def _refuse_beside_from(context: typer.Context) -> None:
    """Refuse options that say how replies are made, or of which: those of `--from` are there."""
    for option in context.command.params:
        name = option.name or ""
        source = context.get_parameter_source(name)
        if source and source.name == "COMMANDLINE" and name not in BESIDE_FROM:
            shown = option.opts[0] if option.param_type_name == "option" else "ADAPTER"
            raise UsageError(
                f"{shown}: {context.params[name]!r} has no meaning beside --from, which measures replies as they are; leave one of them out"
            )


def _load_dialogues(data: str | None, **options: Any) -> list[Dialogue]:
    from sptune.data.load import load_dialogues

    if data is None:
        raise UsageError("--data: missing; name a dialogue file, or give replies made before with --from")
    return load_dialogues(data, **options)


def _load_model(adapter: str | None, base: str | None, template: str | None, dtype: str, device: str) -> SPTModel:
    """The model of an adapter; with a base alone that model as it is: one prompt without virtual tokens."""
    from sptune.model.load import load_base
    from sptune.model.spt import SPTModel

    if dtype not in DTYPES:
        raise UsageError(f"--dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    place: Any = {"dtype": dtype, "device": device}
    if adapter is not None:
        if template is not None:
            raise UsageError(
                "--template: an adapter knows its template; leave the option out, or evaluate --base alone"
            )
        return SPTModel.from_pretrained(adapter, base=base, **place)
    if base is None:
        raise UsageError("ADAPTER: missing; name an adapter folder, or a model without prompts with --base")
    if template not in (None, "paper", "chat"):
        raise UsageError(f"--template: {template!r} is not one of paper, chat")
    kind: Any = template or "paper"
    return SPTModel.from_base(load_base(base, **place), num_prompts=1, prompt_length=0, template=kind)


def _evaluate(
    model: SPTModel, dialogues: list[Dialogue], settings: Settings, source: Source, output: Path | None
) -> EvaluationResult:
    from sptune.evaluation.run import evaluate as run

    with progress_bars() as progress:
        return run(model, dialogues, settings=settings, source=source, output=output, progress=progress).result


def _measure_again(file: Path, settings: Settings, output: Path | None) -> EvaluationResult:
    from sptune.evaluation.run import measure_again

    return measure_again(file, settings=settings, output=output)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Say what Ctrl-C left behind, and end as a shell expects."""
    from sptune.evaluation.generation import GenerationInterrupted

    try:
        yield
    except GenerationInterrupted as stop:
        typer.echo(f"{stop}; {_kept(stop)}", err=True)
        raise typer.Exit(130) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; no figure was finished, nothing was written", err=True)
        raise typer.Exit(130) from None


def _kept(stop: GenerationInterrupted) -> str:
    """What there is of the replies after Ctrl-C."""
    if stop.saved:
        return f"they are in {stop.saved}; `sptune evaluate --from {stop.saved}` measures them"
    return "none were kept (--output FOLDER would have)" if stop.done else "none was finished, so there is none to keep"


def _print(result: EvaluationResult, as_json: bool) -> None:
    """Tables on a terminal, Markdown elsewhere, or JSON."""
    from sptune.evaluation.table import caption, tables

    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
    else:
        echo_tables(caption(result), tables(result))
