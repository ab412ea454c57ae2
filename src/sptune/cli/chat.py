"""`sptune chat`: talk to an adapter, or to a bare model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sptune.cli.decoding import make_decoding, rerank_keys
from sptune.errors import UsageError

if TYPE_CHECKING:
    from sptune.engine.local import LocalEngine
    from sptune.model.load import Dtype
    from sptune.model.spt import SPTModel

EPILOG = """Examples:

sptune chat runs/quickstart/adapter --persona-text "I sail."

sptune chat runs/quickstart/adapter --persona persona.txt --selection sticky --temperature 0.7 --seed 1

sptune chat runs/quickstart/adapter --persona-text "I sail." --decoding gated

sptune chat runs/quickstart/adapter --persona-text "I sail." --candidates 16

sptune chat runs/quickstart/adapter --persona-text "I sail." --candidates 24 --rerank prior_weight=1 --rerank consensus_weight=60

sptune chat --base smollm2-135m

echo "Who are you?" | sptune chat runs/quickstart/adapter --persona sample:test
"""

Speaker = Literal["top1", "fused", "gated"]

_BASE = "Base model, where it is not what the adapter says; without ADAPTER, chat with the bare model."
_PERSONA = "Who replies: a file of one sentence a line, a JSON list, or a dialogue file (its first persona)."
_DECODING = (
    "Who speaks: the chosen prompt, or at K times the cost the average of all prompts at every token, or their gated average; "
    "as the adapter is meant if not given."
)
_SELECTION = "Choose a prompt anew every turn, or keep it unless another is clearly better."


def chat(  # noqa: PLR0913 - each is one option
    adapter: Annotated[
        str | None, typer.Argument(metavar="ADAPTER", help="An adapter folder (RUN/adapter) or hub id.")
    ] = None,
    *,
    base: Annotated[str | None, typer.Option(metavar="NAME", help=_BASE)] = None,
    persona: Annotated[str | None, typer.Option(metavar="FILE", help=_PERSONA)] = None,
    persona_text: Annotated[
        list[str] | None, typer.Option(metavar="SENTENCE", help="A sentence about who replies; can be repeated.")
    ] = None,
    prompt: Annotated[
        str, typer.Option(metavar="auto|K", help="Let the retriever choose, or always use prompt K.")
    ] = "auto",
    selection: Annotated[Literal["per_turn", "sticky"], typer.Option(help=_SELECTION)] = "per_turn",
    sticky_margin: Annotated[
        float, typer.Option(min=0, help="With sticky: how much better another prompt's score has to be.")
    ] = 0.05,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of a reply.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; above it, tokens are drawn.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that hold this probability.")] = 1.0,
    beams: Annotated[int, typer.Option(help="Beam search; replies then come whole.")] = 1,
    decoding: Annotated[Speaker | None, typer.Option(help=_DECODING)] = None,
    gate_temperature: Annotated[
        float | None,
        typer.Option(
            help="Of the gate softmax(scores / temperature) of gated and --candidates; the adapter's own if not given."
        ),
    ] = None,
    candidates: Annotated[
        int,
        typer.Option(min=1, max=1024, help="Say the best of so many candidates (rerank); above 1, replies come whole."),
    ] = 1,
    rerank: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="With --candidates: a key of evaluation.rerank in a recipe; repeatable."
        ),
    ] = None,
    no_repeat_ngram: Annotated[
        int, typer.Option(help="No run of so many tokens occurs twice in a reply; 0 is off.")
    ] = 4,
    seed: Annotated[int | None, typer.Option(help="Makes drawn replies repeatable.")] = None,
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"], typer.Option(help="What the base model computes in.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Talk to an adapter, or with --base alone to a bare model.

    On a terminal, replies stream; /help lists the commands, Ctrl-C stops a reply and Ctrl-D ends the chat.
    In a pipe, each message (a line of input) gets one line of output.
    """
    from sptune.cli.chat_loop import HELP, ChatLoop, parse_prompt
    from sptune.cli.chat_screen import Screen

    sentences = _persona(persona, persona_text or [])
    if adapter is None and base is None:
        raise UsageError("chat: give an adapter folder (`sptune train` writes RUN/adapter), or --base smollm2-135m")
    if candidates > 1 and (beams > 1 or temperature > 0 or top_p != 1):
        raise UsageError(
            "--candidates: are drawn by themselves; leave out --beams, --temperature and --top-p (for candidates, --rerank temperature=0.8)"
        )
    weighing = _weighing(candidates, rerank or [])
    screen = Screen(interactive=sys.stdin.isatty() and sys.stdout.isatty(), commands=list(HELP))
    with screen.busy(f"loading {adapter or base}"):
        import torch

        from sptune.engine.session import Session

        tokens = make_decoding(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            num_beams=beams,
            no_repeat_ngram_size=no_repeat_ngram,
            seed=seed,
            kind=decoding,
            gate_temperature=gate_temperature,
        )
        model = _model(adapter, base, dtype, device)
    speaker = tokens.speakers(model.speakers).kind
    if seed is None:
        torch.seed()  # else every unseeded chat would draw the same replies
    session = Session(
        _engine(model, candidates, weighing, speaker, seed),
        persona=sentences,
        decoding=tokens,
        prompt=parse_prompt(prompt, count=model.prompts.count, option="--prompt"),
        sticky=sticky_margin if selection == "sticky" else None,
    )
    screen.note(_greeting(adapter, model, sentences, speaker))
    ChatLoop(session, screen).run()


chat.epilog = EPILOG  # type: ignore[attr-defined]


def _persona(file: str | None, texts: list[str]) -> tuple[str, ...]:
    """The sentences of `--persona`, then those of `--persona-text`."""
    from sptune.data.persona import load_persona, split_persona

    said = tuple(sentence for text in texts for sentence in split_persona(text))
    if texts and not said:
        raise UsageError("--persona-text: no sentence in it; write for instance --persona-text 'I sail.'")
    return (*(load_persona(file) if file is not None else ()), *said)


def _model(adapter: str | None, base: str | None, dtype: Dtype, device: str) -> SPTModel:
    """The adapter's model; without adapter the bare base, with its own chat template where it has one."""
    from sptune.model.load import load_base
    from sptune.model.spt import SPTModel

    if adapter is not None:
        return SPTModel.from_pretrained(adapter, base=base, dtype=dtype, device=device)
    assert base is not None
    loaded = load_base(base, dtype=dtype, device=device)
    template: Literal["chat", "paper"] = "chat" if loaded.tokenizer.chat_template else "paper"
    return SPTModel.from_base(loaded, num_prompts=1, prompt_length=0, template=template)


# where the candidates of `--candidates` come from and what weighs them, by who speaks
_CANDIDATES: dict[Speaker, dict[str, Any]] = {
    "top1": {"source": "drawn"},
    "gated": {"source": "gated"},
    "fused": {"source": "each", "likelihood": "fused"},  # a K-th of the cost of drawing from the average
}


def _weighing(candidates: int, changes: list[str]) -> dict[str, Any]:
    """What `--rerank` changes, by key; `{}` without it."""
    if changes and candidates == 1:
        raise UsageError(f"--rerank: {changes[0]!r} has no meaning for one reply; add --candidates 16, or leave it out")
    keys = rerank_keys(changes)
    if "candidates" in keys:
        raise UsageError(f"--rerank: candidates={keys['candidates']!r} is given as --candidates {keys['candidates']}")
    return keys


def _engine(
    model: SPTModel, candidates: int, weighing: dict[str, Any], speaker: Speaker, seed: int | None
) -> LocalEngine:
    """What replies: once, or with the best of several candidates."""
    from sptune.build import make_reranking
    from sptune.config import RerankSection
    from sptune.engine.local import LocalEngine
    from sptune.engine.reranked import RerankingEngine

    if candidates == 1:
        return LocalEngine(model)
    section = RerankSection(candidates=candidates, **_CANDIDATES[speaker] | weighing)
    return RerankingEngine(model, make_reranking(section, seed=seed or 0))


def _greeting(adapter: str | None, model: SPTModel, persona: tuple[str, ...], speaker: Speaker) -> str:
    """The first screen: what is loaded, who replies, what to type."""
    backbone, prompts = model.backbone, model.prompts
    place = f"{str(backbone.dtype).removeprefix('torch.')}, {backbone.device}"
    size = f"{prompts.count} prompt{'s' if prompts.count > 1 else ''} of {prompts.length} virtual tokens"
    size += "" if speaker == "top1" else f", {speaker}"
    return "\n".join(
        [
            f"adapter   {adapter}: {size}" if adapter else "adapter   none, the bare model",
            f"base      {backbone.base} ({place}), template {model.encoder.template.kind}",
            f"persona   {' '.join(persona) or 'none; /persona I sail. | I bake. sets one'}",
            "Type a message. /why explains a reply, /help lists the commands, Ctrl-D ends.",
        ]
    )
