"""Fixtures of the model tests: one tiny base model of each architecture."""

from __future__ import annotations

import pytest
from architectures import CONFIGS, make_architecture

from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase


@pytest.fixture(scope="session", params=list(CONFIGS))
def any_base(request: pytest.FixtureRequest, tiny_tokenizer) -> LoadedBase:
    """A tiny random base model of each architecture in turn, in float32."""
    return LoadedBase(
        Backbone(make_architecture(request.param, len(tiny_tokenizer)), base=request.param), tiny_tokenizer
    )
