from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from serving_clients import GREEDY

from sptune.engine.batch.kept_contexts import LEAST, KeptContexts
from sptune.engine.batch.prefill import Prefill
from sptune.engine.prepared import Prepared
from sptune.model.mixture import one_hot
from sptune.model.selection import Selection
from sptune.model.spt import SPTModel

LENGTH = 4  # virtual tokens


@pytest.fixture
def model(tiny_model: Callable[..., SPTModel]) -> SPTModel:
    return tiny_model(length=LENGTH)


def asked(model: SPTModel, ids: tuple[int, ...], prompt: int = 0) -> Prepared:
    return Prepared(
        model=model,
        ids=ids,
        selection=Selection(prompt, (0.0, 0.0, 0.0), 0.0),
        weights=one_hot(prompt, 3),
        selection_seconds=0.0,
        decoding=GREEDY,
        stops=(),
        ends=(),
        said=(),
        raw=False,
        logprobs=None,
    )


@torch.no_grad()
def run(kept: KeptContexts, prepared: Prepared) -> Prefill:
    prefill = Prefill(prepared.model.backbone, [prepared.embeddings()], beginning=kept.beginning(prepared))
    prefill.run(10_000)
    assert prefill.finished
    kept.keep(prepared, prefill.cache, prompt=prepared.selection.prompt, row=0)
    return prefill


def known(kept: KeptContexts, prepared: Prepared) -> int:
    """Tokens of a request that need not be run."""
    beginning = kept.beginning(prepared)
    return beginning.places - prepared.model.prompts.length if beginning else 0


def test_the_next_turn_takes_up_what_is_known(model: SPTModel) -> None:
    kept = KeptContexts(1000)
    first, second = tuple(range(60)), (*range(55), *range(100, 130))
    run(kept, asked(model, first))
    assert known(kept, asked(model, second)) == 55
    assert known(kept, asked(model, first)) == 59, "the last token tells what comes next"
    assert known(kept, asked(model, first[: LEAST + 1])) == LEAST
    assert known(kept, asked(model, first[:LEAST])) == 0
    again, anew = run(kept, asked(model, second)), run(KeptContexts(0), asked(model, second))
    torch.testing.assert_close(again.states(), anew.states())
    for one, other in zip(again.cache.layers, anew.cache.layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys)
        torch.testing.assert_close(one.values, other.values)


def test_another_adapter_or_prompt_knows_nothing_of_it(model: SPTModel, tiny_model: Callable[..., SPTModel]) -> None:
    kept, ids = KeptContexts(1000), tuple(range(60))
    run(kept, asked(model, ids))
    other = tiny_model(length=LENGTH)
    assert known(kept, asked(model, ids, prompt=1)) == 0
    assert known(kept, asked(other, ids)) == 0
    assert known(kept, asked(model, (9, *ids[1:]))) == 0


def test_an_adapter_can_leave_memory(tiny_model: Callable[..., SPTModel]) -> None:
    kept, ids = KeptContexts(1000), tuple(range(60))
    gone = tiny_model(length=LENGTH)
    run(kept, asked(gone, ids))
    address = id(gone)
    del gone
    gc.collect()
    models = [tiny_model(length=LENGTH) for _ in range(20)]  # one of them may stand where the old one stood
    assert not any(known(kept, asked(model, ids)) for model in models), address


def test_so_many_places_are_kept_the_least_recently_used_going_first(model: SPTModel) -> None:
    kept = KeptContexts(2 * 64)
    one, two, three = ((k, *range(100, 159)) for k in range(3))
    run(kept, asked(model, one))
    run(kept, asked(model, two))
    assert kept.taken == 128
    assert known(kept, asked(model, one)) == 59
    run(kept, asked(model, three))
    assert kept.taken == 128
    assert [known(kept, asked(model, ids)) for ids in (one, two, three)] == [59, 0, 59]
    run(kept, asked(model, (*one, 5)))  # takes the place of what it continues
    assert kept.taken == 65
    run(kept, asked(model, tuple(range(200))))  # too long to be kept
    assert kept.taken == 65
