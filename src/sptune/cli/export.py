"""`sptune export` and `sptune import`: to and from stock PEFT adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sptune.errors import UsageError

EXPORT_EPILOG = """Examples:

sptune export runs/quickstart/adapter --prompt 2 --output peft-2

sptune export runs/quickstart/adapter --all --output peft --force
"""

IMPORT_EPILOG = """Examples:

sptune import my-peft-adapter --output adapter

sptune import peft/prompt-0 peft/prompt-1 --base smollm2-135m --template chat --output adapter
"""


def export(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter folder, a run folder, or a hub id.")],
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    prompt: Annotated[int | None, typer.Option(help="Number of the prompt, counted from 0.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Write every prompt, to OUTPUT/prompt-0, prompt-1, ...")] = False,
    base: Annotated[
        str | None, typer.Option(help="Name of the base model to write down, where PEFT users find it elsewhere.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
) -> None:
    """Write one prompt, or each of them, as a stock PEFT adapter that PeftModel.from_pretrained loads."""
    from sptune.adapter import load_adapter
    from sptune.model.hub import local_folder
    from sptune.peft_adapter import export_prompts

    if every == (prompt is not None):
        raise UsageError("prompt: give the number of one prompt, as in --prompt 0, or --all")
    loaded = load_adapter(local_folder(adapter))
    for folder in export_prompts(loaded, output, prompt=prompt, base=base, force=force):
        typer.echo(f"{folder}: a PEFT adapter of {loaded.config.prompt_length} virtual tokens")


def import_(
    peft: Annotated[list[Path], typer.Argument(metavar="PEFT_DIR", help="One or several PEFT prompt-tuning adapters.")],
    output: Annotated[Path, typer.Option(help="The adapter folder to write.")],
    base: Annotated[str | None, typer.Option(help="The base model; what the adapters name, if not given.")] = None,
    template: Annotated[
        Literal["paper", "chat"], typer.Option(help="The text form that the prompts were trained on.")
    ] = "paper",
    force: Annotated[bool, typer.Option("--force", help="Replace an adapter that stands there.")] = False,
) -> None:
    """Make an adapter of PEFT prompt-tuning adapters, one prompt each.

    Its retriever compares mean embeddings and is not trained; `sptune train RECIPE prompts.init=file
    prompts.file=OUTPUT` trains one.
    """
    from sptune.model.load import load_base
    from sptune.peft_adapter import common_base, import_prompts
    from sptune.peft_folder import check_output, read_peft

    place = output.expanduser().resolve()
    check_output(place, peft_type="SELECTIVE_PROMPT_TUNING", force=force)
    prompts = [read_peft(folder) for folder in peft]
    named = None if base else common_base(prompts)
    name = base or (named.base if named else None)
    if name is None:
        raise UsageError("base: the adapters do not name their base model; name it with --base")
    loaded = load_base(name, revision=named.revision if named else None, device="cpu")
    model = import_prompts(prompts, loaded, template=template)
    model.save_pretrained(place)
    typer.echo(f"{place}: an adapter of {len(prompts)} prompt{'s' * (len(prompts) > 1)} for {name}")
    if len(prompts) > 1:
        length = prompts[0].embeddings.shape[0]
        typer.echo(
            "Its retriever compares mean embeddings and is not trained; to train one: sptune train RECIPE "
            f"prompts.init=file prompts.file={place} prompts.count={len(prompts)} prompts.length={length}"
        )


export.epilog = EXPORT_EPILOG  # type: ignore[attr-defined]
import_.epilog = IMPORT_EPILOG  # type: ignore[attr-defined]
