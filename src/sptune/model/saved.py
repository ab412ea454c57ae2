"""Between a model's modules and the adapter on disk: describe a model, and rebuild its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from sptune.adapter import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    AdapterConfig,
    BaseConfig,
    DecodingConfig,
    RetrieverConfig,
    TemplateConfig,
)
from sptune.data.encoder import DialogueEncoder
from sptune.data.template import make_template
from sptune.errors import AdapterError, RecipeError
from sptune.model.mixture import Speakers
from sptune.model.retriever import Reading, Retriever

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.model.load import LoadedBase
    from sptune.model.spt import SPTModel


def describe(model: SPTModel) -> AdapterConfig:
    """`adapter_config.json` of a model."""
    encoder, template, backbone, retriever = model.encoder, model.encoder.template, model.backbone, model.retriever
    return AdapterConfig(
        base=BaseConfig(id=backbone.base, revision=backbone.revision, embedding_sha256=backbone.embedding_hash()),
        num_prompts=model.prompts.count,
        prompt_length=model.prompts.length,
        embedding_dim=backbone.embedding_dim,
        retriever=RetrieverConfig(
            kind=retriever.kind,
            hidden=retriever.hidden,
            activation=retriever.activation,
            input=retriever.reading.input,
            half_life=retriever.reading.half_life,
            rank=retriever.reading.rank,
            keys=retriever.keys is not None,
        ),
        template=TemplateConfig(
            kind=template.kind,
            source=getattr(template, "source", None),
            max_length=encoder.max_length,
            reserve=encoder.reserve,
            learn_stop=encoder.learn_stop,
        ),
        stops=model.stops,
        decoding=DecodingConfig(kind=model.speakers.kind, gate_temperature=model.speakers.gate_temperature),
    )


def speakers_of(config: AdapterConfig) -> Speakers:
    """Who speaks where nothing else is asked for."""
    return Speakers(config.decoding.kind, config.decoding.gate_temperature)


def make_encoder(config: AdapterConfig, base: LoadedBase) -> DialogueEncoder:
    """The encoder that an adapter was trained with, on its base model."""
    template = config.template
    return DialogueEncoder(
        base.tokenizer,
        make_template(template.kind, tokenizer=base.tokenizer, source=template.source),
        max_length=template.max_length,
        prompt_length=config.prompt_length,
        reserve=template.reserve,
        learn_stop=template.learn_stop,
        window=base.backbone.window,
    )


def make_retriever(config: AdapterConfig, tensors: Mapping[str, Tensor], *, base: LoadedBase) -> Retriever:
    """An adapter's retriever, still without its numbers. Shapes are compared before memory is taken for them.

    Raises:
        AdapterError: a retriever that cannot be, or tensors that do not have the shapes that the configuration asks for.
    """

    def build() -> Retriever:
        r = config.retriever
        return Retriever(
            r.kind,
            dim=base.backbone.hidden_dim if r.input == "hidden" else config.embedding_dim,
            hidden=r.hidden,
            activation=r.activation,
            reading=Reading(r.input, half_life=r.half_life, rank=r.rank),
            keys=config.num_prompts if r.keys else None,
        )

    try:
        with torch.device("meta"):
            wanted = {f"retriever.{name}": tensor for name, tensor in build().state_dict().items()}
    except RecipeError as error:
        raise AdapterError(f"{CONFIG_NAME}: {error}") from error
    check_shapes(wanted, {name: tensor for name, tensor in tensors.items() if name.startswith("retriever.")})
    return build()


def check_shapes(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not of the wanted names and shapes.

    Raises:
        AdapterError: names the first tensor that is missing, unknown or of another shape.
    """
    for name in (*wanted, *found):
        ask, have = (str(tuple(part[name].shape)) if name in part else "none" for part in (wanted, found))
        if ask != have:
            raise AdapterError(
                f"{WEIGHTS_NAME}: shape of {name} is {have}, this model asks for {ask}; get the adapter again"
            )
