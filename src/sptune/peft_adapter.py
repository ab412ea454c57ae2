"""To and from stock PEFT adapters: a prompt of an SPT adapter written as one, an SPT model made of one or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sptune.adapter import PROMPTS_KEY, Adapter
from sptune.errors import AdapterError, UsageError
from sptune.files import write_atomically
from sptune.model.load import HUB_IDS
from sptune.peft_folder import PEFT_TYPE, PeftPrompt, check_output, write_peft

if TYPE_CHECKING:
    from sptune.data.template import TemplateKind
    from sptune.model.load import LoadedBase
    from sptune.model.spt import SPTModel

_CARD = """---
library_name: peft
base_model: {base}
pipeline_tag: text-generation
tags:
- prompt-tuning
- soft-prompts
---

# One soft prompt for {base}

Prompt {number} of 0 to {last} of a Selective Prompt Tuning adapter: {length} virtual tokens, as a PEFT `PROMPT_TUNING`
adapter. The retriever that chose among the prompts is not part of it: this prompt always speaks.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "path/to/this/folder")
```

It was trained on {form}; give the model its input in that form. Pad on the right, or not at all: PEFT puts the
virtual tokens before everything, so padding on the left would stand between the prompt and the text.
"""

_FORMS = {
    "paper": "texts of the form `given persona: SENTENCES; context: Q: USER R: RESPONSE Q: USER R:`",
    "chat": "the base model's own chat template, with the persona as system message",
    "jinja": "a Jinja template of its author's (`template.source` in the SPT adapter's configuration)",
}


def export_prompts(
    adapter: Adapter, output: str | Path, *, prompt: int | None = None, base: str | None = None, force: bool = False
) -> tuple[Path, ...]:
    """Write prompts as stock PEFT adapters that `PeftModel.from_pretrained` loads. PEFT itself is not needed.

    Args:
        adapter: the SPT adapter.
        output: the folder to write; written whole or not at all.
        prompt: its number, 0 .. K-1, written to `output`; None writes every prompt, to `output/prompt-k`.
        base: name of the base model for PEFT; the adapter's own where None, an alias as its hub id.
        force: replace an earlier export.

    Returns:
        The PEFT folders written, by prompt number.

    Raises:
        UsageError: no such prompt, or `output` exists and may not be replaced.
        AdapterError: the adapter has no virtual tokens.
        StorageError: the folder cannot be written.
    """
    count, length = adapter.config.num_prompts, adapter.config.prompt_length
    if length == 0:
        raise AdapterError("num_virtual_tokens: this adapter has no virtual tokens (L = 0); there is nothing to export")
    if prompt is not None and not 0 <= prompt < count:
        raise UsageError(f"prompt: there is no prompt {prompt}; this adapter has prompts 0 to {count - 1}")
    path = Path(output).expanduser().resolve()
    check_output(path, peft_type=PEFT_TYPE, force=force)
    if prompt is not None:
        write_atomically(path, lambda partial: _write(partial, adapter, prompt, base))
        return (path,)

    def write_all(partial: Path) -> None:
        partial.mkdir()
        for k in range(count):
            _write(partial / f"prompt-{k}", adapter, k, base)

    write_atomically(path, write_all)
    return tuple(path / f"prompt-{k}" for k in range(count))


def common_base(prompts: Sequence[PeftPrompt]) -> PeftPrompt | None:
    """The prompt whose base model and revision stand for all of `prompts`; None where none names a base model.

    Raises:
        AdapterError: they name different base models.
    """
    named = {(prompt.base, prompt.revision): prompt for prompt in prompts if prompt.base}
    if len(named) > 1:
        names = ", ".join(f"{base}{f' at {revision}' if revision else ''}" for base, revision in named)
        raise AdapterError(
            f"base_model_name_or_path: the adapters name different models ({names}); "
            "import those of one model together, or name it with --base"
        )
    return next(iter(named.values()), None)


def import_prompts(prompts: Sequence[PeftPrompt], base: LoadedBase, *, template: TemplateKind = "paper") -> SPTModel:
    """An SPT model whose K prompts are `prompts`.

    Its retriever is `identity`, which has nothing to train: the cosine between the mean embeddings of context and
    prompt. For K = 1 no more is needed; for K > 1, train a retriever with `prompts.init=file prompts.file=FOLDER`.

    Args:
        prompts: K prompts of one length.
        base: the model that they were trained on.
        template: how a dialogue becomes text; PEFT does not record what the prompts were trained on.

    Raises:
        AdapterError: prompts of different lengths, a prompt given twice, or a width other than the base model's.
        ModelError: `chat` on a base model without a chat template.
    """
    from sptune.data.encoder import DialogueEncoder
    from sptune.data.template import default_stops, make_template
    from sptune.model.prompts import SoftPrompts
    from sptune.model.retriever import Retriever
    from sptune.model.spt import SPTModel

    backbone = base.backbone
    _check_together(prompts, width=backbone.embedding_dim, base=backbone.base)
    embeddings = torch.stack([prompt.embeddings for prompt in prompts])  # (K, L, D)
    encoder = DialogueEncoder(
        base.tokenizer,
        make_template(template, tokenizer=base.tokenizer),
        prompt_length=embeddings.shape[1],
        window=backbone.window,
    )
    retriever = Retriever("identity", dim=backbone.embedding_dim)
    return SPTModel(backbone, SoftPrompts(embeddings), retriever, encoder, stops=default_stops(template))


def _write(folder: Path, adapter: Adapter, number: int, base: str | None) -> None:
    config = adapter.config
    revision = None if base else config.base.revision
    base = base or HUB_IDS.get(config.base.id, config.base.id)
    prompt = PeftPrompt(adapter.tensors[PROMPTS_KEY][number], base, revision)
    form = _FORMS[config.template.kind]
    last = config.num_prompts - 1
    write_peft(
        folder, prompt, card=_CARD.format(base=base, number=number, last=last, length=config.prompt_length, form=form)
    )


def _check_together(prompts: Sequence[PeftPrompt], *, width: int, base: str) -> None:
    lengths = [prompt.embeddings.shape[0] for prompt in prompts]
    if len(set(lengths)) > 1:
        listed = ", ".join(map(str, lengths))
        raise AdapterError(f"num_virtual_tokens: the adapters have {listed}; import prompts of one length together")
    for number, prompt in enumerate(prompts, start=1):
        if prompt.embeddings.shape[1] != width:
            raise AdapterError(
                f"token_dim: adapter {number} was made for embeddings of width {prompt.embeddings.shape[1]}, those of "
                f"{base} have {width}; name the model that it was trained on with --base"
            )
        for twin, other in enumerate(prompts[: number - 1], start=1):
            if torch.equal(prompt.embeddings, other.embeddings):
                raise AdapterError(f"adapters {twin} and {number} hold the same prompt; give each once")
