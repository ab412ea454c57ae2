"""The adapters that are served: loaded in a thread, shared by all requests, the least recently used ones out of memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sptune.engine.serving import AdapterInfo
from sptune.errors import AdapterError, UsageError

if TYPE_CHECKING:
    from sptune.adapter import AdapterConfig
    from sptune.engine.loaded_adapter import LoadedAdapter


@dataclass(slots=True, eq=False)
class _Entry:
    """A name that was given out.

    Attributes:
        path: where the adapter lies.
        created: Unix time at which it was added.
        config: of the adapter, once it was loaded for the first time.
        adapter: in memory, or None.
        loading: the load that is under way, which all who need the adapter wait for.
    """

    path: str | Path
    created: float = field(default_factory=time.time)
    config: AdapterConfig | None = None
    adapter: LoadedAdapter | None = None
    loading: asyncio.Task[LoadedAdapter] | None = None


class AdapterStore:
    """Adapters by name; see `sptune.engine.serving.Adapters`. Used from one event loop.

    An adapter that left memory is read again from its folder when it is next asked for. Replies that are being generated
    keep theirs to their end, whatever happens to the name.

    Args:
        load: reads an adapter; called in a thread.
        limit: the most adapters in memory; None is no limit.

    Raises:
        UsageError: a limit below 1.
    """

    def __init__(self, load: Callable[[str | Path], LoadedAdapter], *, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise UsageError(f"adapter limit: {limit} is below 1; leave it out for no limit")
        self._load = load
        self._limit = limit
        self._entries: dict[str, _Entry] = {}
        self._used: dict[str, _Entry] = {}  # those in memory, the least recently used first

    async def add(self, name: str, path: str | Path) -> AdapterInfo:
        """See `Adapters.add`."""
        if not name.strip():
            raise UsageError("adapter name: empty; give one, as in name=PATH")
        if name in self._entries:
            raise UsageError(f"adapter name: {name!r} is taken; remove that adapter first or choose another name")
        self._entries[name] = entry = _Entry(path)
        try:
            await self._loaded(name, entry)
        except BaseException:
            if entry.config is None and self._entries.get(name) is entry:
                del self._entries[name]
            raise
        return self.describe(name)

    async def remove(self, name: str) -> None:
        """See `Adapters.remove`."""
        self._entry(name)
        del self._entries[name]
        self._used.pop(name, None)

    def names(self) -> list[str]:
        """See `Adapters.names`."""
        return [name for name, entry in self._entries.items() if entry.config is not None]

    def describe(self, name: str) -> AdapterInfo:
        """See `Adapters.describe`."""
        entry = self._entry(name)
        if entry.config is None:
            raise AdapterError(f"model: {name!r} is still being loaded")
        config = entry.config
        return AdapterInfo(
            name=name,
            base=config.base.id,
            num_prompts=config.num_prompts,
            prompt_length=config.prompt_length,
            template=config.template.kind,
            retriever=config.retriever.kind,
            reading=config.retriever.input,
            decoding=config.decoding.kind,
            stops=config.stops,
            max_length=config.template.max_length,
            created=entry.created,
            loaded=entry.adapter is not None,
        )

    async def get(self, name: str) -> LoadedAdapter:
        """The adapter of that name, waiting for it where it is being loaded, and loading it again where it left memory.

        Raises:
            AdapterError: no adapter of that name, or one that cannot be loaded.
        """
        entry = self._entry(name)
        if entry.adapter is None:
            return await self._loaded(name, entry)
        self._use(name, entry)
        return entry.adapter

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            known = ", ".join(self.names()[:8]) or "none"
            raise AdapterError(f"model: there is no adapter {name!r}; there are: {known}")
        return self._entries[name]

    async def _loaded(self, name: str, entry: _Entry) -> LoadedAdapter:
        """One load for all who wait; it goes on when one of them gives up."""
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._read(name, entry))
            entry.loading.add_done_callback(_seen)
        return await asyncio.shield(entry.loading)

    async def _read(self, name: str, entry: _Entry) -> LoadedAdapter:
        try:
            adapter = await asyncio.to_thread(self._load, entry.path)
        finally:
            entry.loading = None
        if self._entries.get(name) is not entry:
            raise AdapterError(f"model: the adapter {name!r} was removed while it was being loaded")
        entry.config, entry.adapter = adapter.config, adapter
        self._use(name, entry)
        return adapter

    def _use(self, name: str, entry: _Entry) -> None:
        """Note that `entry` was used last, and let the least recently used one go beyond the limit."""
        self._used.pop(name, None)
        self._used[name] = entry
        while self._limit is not None and len(self._used) > self._limit:
            self._used.pop(next(iter(self._used))).adapter = None


def _seen(task: asyncio.Task[LoadedAdapter]) -> None:
    """Take note of a failed load, so that asyncio does not complain where all who waited have given up."""
    if not task.cancelled():
        task.exception()
