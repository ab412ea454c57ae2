"""The model card that is saved with an adapter."""

from __future__ import annotations

from sptune.adapter import AdapterConfig, DecodingConfig, RetrieverConfig

_CARD = """---
library_name: sptune
base_model: {base}
tags:
- selective-prompt-tuning
- soft-prompts
- personalised-dialogue
---

# Selective Prompt Tuning adapter for {base}

{count} soft prompts of {length} virtual tokens and a `{retriever}` retriever that chooses one of them for each dialogue context. The base model
is frozen; this adapter only changes its input embeddings.

| | |
|---|---|
| base model | `{base}`{revision} |
| prompts x virtual tokens x width | {count} x {length} x {dim} |
| retriever | {retriever}, {activation}; reads {reading}; compares with {keys} |
| who speaks | {speaks} |
| template | {template} |
| SHA-256 of the base's embedding table | `{digest}` |

```python
import sptune

model = sptune.SPTModel.from_pretrained("path/to/this/folder")
talk = sptune.Dialogue("talk", persona=("I keep bees.",), turns=(sptune.Turn("What do you do on Sundays?"),))
print(model.generate([talk])[0].text)
```

Or, on the command line: `sptune chat path/to/this/folder --persona-text "I keep bees."`

Replies are made up by a language model that was asked to speak as a persona; do not take them for facts,
and do not use them to pass for a real person.
"""


def model_card(config: AdapterConfig) -> str:
    """README.md of the adapter folder, in the hub's form."""
    revision = f" at revision `{config.base.revision}`" if config.base.revision else ""
    return _CARD.format(
        base=config.base.id,
        revision=revision,
        count=config.num_prompts,
        length=config.prompt_length,
        dim=config.embedding_dim,
        retriever=config.retriever.kind,
        activation=config.retriever.activation,
        reading=_reading(config.retriever),
        keys="keys of its own" if config.retriever.keys else "the prompts",
        speaks=_speaks(config.decoding),
        template=config.template.kind,
        digest=config.base.embedding_sha256,
    )


def _speaks(decoding: DecodingConfig) -> str:
    return {
        "top1": "the chosen prompt",
        "fused": "all prompts together: the average of their distributions",
        "gated": f"all prompts together: the average of their distributions, weighted by softmax(scores / {decoding.gate_temperature:g})",
    }[decoding.kind]


def _reading(retriever: RetrieverConfig) -> str:
    if retriever.kind == "transformer":
        return "the word embeddings of a context"
    what = {
        "mean": "the mean word embedding of a context",
        "recent": f"the mean word embedding of a context, weights halved every {retriever.half_life:g} tokens towards the past",
        "hidden": "the base model's last hidden state",
    }[retriever.input]
    return f"{what}, whitened to {retriever.rank} components" if retriever.rank else what
