"""Keys and values of the replies of a batch, one row each, written in place: rows come and go between two steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from sptune.engine.batch.prefill import Prefill, run_body

if TYPE_CHECKING:
    from sptune.model.backbone import Backbone

BLOCK = 64  # widths are multiples of it, so that memory is seldom taken anew


class SlotRows:
    """All replies advance in one run of the model. For models whose way (`prefix.find_way`) is `packed`.

    A row begins at place 0 and is as wide as the longest reply may become; a mask hides what is not its own. Nothing is
    moved or copied when a token is added.

    Args:
        backbone: the frozen model.
        slots: the most rows.
        places: the most places (rows x width) that memory is taken for; a multiple of `BLOCK`.
    """

    together = True  # several contexts can be run side by side

    def __init__(self, backbone: Backbone, *, slots: int, places: int) -> None:
        self._backbone = backbone
        self._slots, self._places = slots, places
        self._lengths: list[int] = []  # places written, of each row
        self._needs: list[int] = []  # places that each row may come to need
        self._layers: list[_Layer] = []
        self._size = (0, 0)  # rows and width of the memory that is taken

    def __len__(self) -> int:
        return len(self._lengths)

    def fits(self, needs: Sequence[int]) -> bool:
        """Whether there is room for further rows of so many places."""
        rows, width = self._wanted(needs)
        return len(self) + len(needs) <= self._slots and rows * width <= self._places

    def add(self, prefill: Prefill, needs: Sequence[int]) -> None:
        """Append a row for each of the sequences of `prefill`, which may come to need so many places."""
        first = len(self)
        self._resize(self._wanted(needs), prefill.cache.layers)
        for layer, filled in zip(self._layers, prefill.cache.layers, strict=True):
            for i, length in enumerate(prefill.lengths):
                layer.fill(first + i, filled.keys[i, :, :length], filled.values[i, :, :length])
        self._lengths += prefill.lengths
        self._needs += needs

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place. Memory is given back with the last row."""
        last = len(self) - 1
        if row != last:
            for layer in self._layers:
                layer.fill(
                    row, layer.keys[last, :, : self._lengths[last]], layer.values[last, :, : self._lengths[last]]
                )
        for values in (self._lengths, self._needs):
            values[row] = values[last]
            values.pop()
        if not self._lengths:
            self._layers, self._size = [], (0, 0)

    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Run one token of each row: states (R, H), which predict the next."""
        device = self._backbone.device
        position = torch.tensor(self._lengths, device=device)  # (R,)
        width = max(self._lengths) + 1
        for layer in self._layers:
            layer.look(position, width)
        seen = torch.arange(width, device=device) <= position[:, None]  # (R, W)
        mask = torch.zeros(seen.shape, dtype=self._backbone.dtype, device=device)
        output = run_body(
            self._backbone,
            self._backbone.embed(torch.tensor(tokens, device=device)[:, None]),
            position=position[:, None],
            attention_mask=mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)[:, None, None],  # (R, 1, 1, W)
            past_key_values=Cache(layers=list(self._layers)),
        )
        self._lengths = [length + 1 for length in self._lengths]
        states: Tensor = output.last_hidden_state[:, 0]
        return states

    def _wanted(self, needs: Sequence[int]) -> tuple[int, int]:
        """Rows and width of the memory for the present rows and further ones: a power of two where there is room, and a multiple of `BLOCK`."""
        rows, longest = len(self) + len(needs), max((*self._needs, *needs), default=0)
        width = -(-longest // BLOCK) * BLOCK
        spare = min(self._slots, self._places // max(1, width), 1 << max(0, rows - 1).bit_length())
        return max(rows, spare), width

    def _resize(self, size: tuple[int, int], like: Sequence[Any]) -> None:
        """Take more memory where `size` asks for it, or less where less than half the width is needed."""
        rows, width = self._size
        if size[0] <= rows and width // 2 < size[1] <= width:
            return
        self._size = size
        old, self._layers = self._layers, [_Layer(layer, size) for layer in like]
        for layer, before in zip(self._layers, old, strict=False):
            for row, length in enumerate(self._lengths):
                layer.fill(row, before.keys[row, :, :length], before.values[row, :, :length])


class _Layer(CacheLayerMixin):
    """Keys and values (rows, heads, width, d) of one layer of the model, as transformers' caches have them.

    Args:
        like: a layer of a cache whose heads and widths it takes over.
        size: rows and width.
    """

    def __init__(self, like: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.keys = like.keys.new_zeros(size[0], like.keys.shape[1], size[1], like.keys.shape[3])
        self.values = like.values.new_zeros(size[0], like.values.shape[1], size[1], like.values.shape[3])
        self.is_initialized = True
        self._width = 0

    def fill(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Give a row its first places, and leave nothing of who had it before: what is masked is still multiplied by 0."""
        for own, given in ((self.keys, keys), (self.values, values)):
            own[row, :, : given.shape[1]] = given
            own[row, :, given.shape[1] :] = 0

    def look(self, position: Tensor, width: int) -> None:
        """Where the next token of each row (R,) is written, and how many places are read."""
        self._row, self._position, self._width = torch.arange(len(position), device=position.device), position, width

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values (R, heads, 1, d), and give those of all places (R, heads, W, d)."""
        rows = len(self._position)
        self.keys[self._row, :, self._position] = key_states[:, :, 0]
        self.values[self._row, :, self._position] = value_states[:, :, 0]
        return self.keys[:rows, :, : self._width], self.values[:rows, :, : self._width]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do."""

    def get_seq_length(self) -> int:
        """Places before the next token, of the longest row."""
        return self._width - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Places that are read, and the first of them."""
        return self._width, 0

    def get_max_length(self) -> int:
        """There is no limit that the model need know."""
        return -1
