from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sptune.engine.batch.prefill import Prefill
from sptune.engine.batch.slot_rows import BLOCK, SlotRows
from sptune.model.backbone import Backbone
from tiny import tiny_llama

SLOTS, PLACES = 5, 4 * BLOCK
BACKBONE = Backbone(tiny_llama(50), base="tiny")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def prefilled(*lengths: int, chunk: int = 1000) -> Prefill:
    sequences = [BACKBONE.embed(torch.arange(length) * 7 % 50) for length in lengths]
    prefill = Prefill(BACKBONE, sequences)
    while not prefill.finished:
        prefill.run(chunk)
    return prefill


@pytest.mark.parametrize("chunk", [1, 7, 12, 1000])
def test_contexts_run_in_parts_and_side_by_side_give_the_same_states(chunk: int) -> None:
    lengths = (3, 20, 11)
    whole = torch.stack([BACKBONE.hidden(BACKBONE.embed(torch.arange(n) * 7 % 50)[None])[0, -1] for n in lengths])
    torch.testing.assert_close(prefilled(*lengths, chunk=chunk).states(), whole)


@settings(max_examples=25, deadline=None)
@given(
    moves=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 60)),
            st.tuples(st.just("remove"), st.integers(0, SLOTS - 1)),
            st.tuples(st.just("advance"), st.integers(1, 3)),
        ),
        max_size=12,
    )
)
def test_rows_come_and_go_and_each_sees_itself_alone(moves: list[tuple[object, ...]]) -> None:
    """Whatever the order of events, a row's state is that of its own sequence, and memory stays within bounds."""
    rows = SlotRows(BACKBONE, slots=SLOTS, places=PLACES)
    spoken: list[tuple[list[int], int]] = []  # tokens of each row, and how many it may come to have
    with torch.no_grad():
        for move, *arguments in moves:
            if move == "add":
                lengths, new = arguments
                needs = [length + new for length in lengths]
                if rows.fits(needs):
                    rows.add(prefilled(*lengths), needs)
                    spoken += [
                        ([n * 7 % 50 for n in range(length)], need) for length, need in zip(lengths, needs, strict=True)
                    ]
            elif move == "remove" and arguments[0] < len(rows):
                rows.remove(arguments[0])
                spoken[arguments[0]] = spoken[-1]
                spoken.pop()
            elif move == "advance" and spoken and all(len(ids) + arguments[0] <= need for ids, need in spoken):
                for step in range(arguments[0]):
                    for ids, _ in spoken:
                        ids.append((ids[-1] * 3 + step + len(ids)) % 50)
                    states = rows.advance([ids[-1] for ids, _ in spoken])
                for state, (ids, _) in zip(states, spoken, strict=True):
                    alone = BACKBONE.hidden(BACKBONE.embed(torch.tensor([ids])))[0, -1]
                    torch.testing.assert_close(state, alone, atol=1e-4, rtol=1e-4)
            assert len(rows) == len(spoken)
            assert sum(layer.keys[:, 0, :, 0].numel() for layer in rows._layers) <= PLACES * len(rows._layers)
            assert bool(rows._layers) == bool(spoken)


def test_there_is_room_for_so_many_rows_and_places() -> None:
    rows = SlotRows(BACKBONE, slots=SLOTS, places=PLACES)
    assert rows.fits([PLACES])
    assert not rows.fits([PLACES + 1])
    assert rows.fits([BLOCK] * 4)
    assert not rows.fits([BLOCK + 1] * 3)
    rows.add(prefilled(10), [2 * BLOCK])
    assert rows.fits([1])
    assert not rows.fits([1, 1])  # each row is as wide as the widest may become
    rows.remove(0)
    assert rows.fits([PLACES])
    assert not SlotRows(BACKBONE, slots=2, places=100 * BLOCK).fits([1, 1, 1])


def test_nothing_of_an_earlier_row_is_left() -> None:
    """Not a number times a weight of 0 would be not a number."""
    rows = SlotRows(BACKBONE, slots=2, places=PLACES)
    bad = prefilled(30)
    for layer in bad.cache.layers:
        layer.keys.fill_(torch.nan)
        layer.values.fill_(torch.nan)
    rows.add(prefilled(40), [50])
    rows.add(bad, [50])
    rows.remove(1)
    rows.add(prefilled(5), [50])
    assert bool(rows.advance([1, 2]).isfinite().all())
    rows.remove(0)
    assert bool(rows.advance([3]).isfinite().all())


def test_memory_of_a_long_row_is_given_back_when_short_ones_come() -> None:
    def width() -> int:
        return rows._layers[0].keys.shape[2]

    rows = SlotRows(BACKBONE, slots=4, places=32 * BLOCK)
    rows.add(prefilled(5), [BLOCK])
    rows.add(prefilled(5), [8 * BLOCK])
    assert width() == 8 * BLOCK
    rows.remove(1)
    rows.add(prefilled(5), [BLOCK])
    assert width() == BLOCK
    assert bool(rows.advance([1, 2]).isfinite().all())
