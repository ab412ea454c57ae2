"""Small comparisons to test with: a folder with a tiny base model, invented dialogues and a recipe that methods share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from small_run import save_base, talks, write_talks
from sptune.config import ComparisonSettings, parse_comparison
from sptune.experiments.plan import Plan, begin, make_plan
from sptune.experiments.tasks import Task, list_tasks
from sptune.model.load import LoadedBase

SHARED = {
    "model": {"dtype": "float32"},
    "data": {"train": "1:12", "validation": "13:16"},
    "template": {"max_length": 200, "reserve": 20},
    "prompts": {"count": 3, "length": 4},
    "training": {"batch_tokens": 100, "checkpoint_every": 2, "log_every": 2, "prompt_lr": 0.05, "report_to": []},
    "evaluation": {"split": "17:20", "max_new_tokens": 3},
}

METHODS: dict[str, Any] = {"pt": {"kind": "spt", "set": {"prompts.count": 1}}, "spt": {"kind": "spt"}}


class Shelf:
    """A folder with all that a comparison needs.

    Args:
        folder: an empty one.
        base: the base model; without one the recipe can be read, but nothing can be trained.
    """

    def __init__(self, folder: Path, base: LoadedBase | None = None) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.data = write_talks(folder / "talks.jsonl", talks(20))
        self.shared = folder / "shared.yaml"
        where = str(save_base(base, folder / "base")) if base else "nowhere"
        data = {**SHARED["data"], "path": str(self.data)}
        self.shared.write_text(yaml.safe_dump({**SHARED, "model": {**SHARED["model"], "base": where}, "data": data}))

    def raw(self, methods: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """A comparison as its file says it."""
        plain = {"output": str(self.output), "recipe": str(self.shared), "seeds": [0], "methods": methods or METHODS}
        return {**plain, **changes}

    def settings(self, methods: dict[str, Any] | None = None, **changes: Any) -> ComparisonSettings:
        """A comparison."""
        return parse_comparison(self.raw(methods, **changes))

    def file(self, methods: dict[str, Any] | None = None, **changes: Any) -> Path:
        """A comparison's file."""
        path = self.folder / "compare.yaml"
        path.write_text(yaml.safe_dump(self.raw(methods, **changes)))
        return path

    def begun(self, methods: dict[str, Any] | None = None, **changes: Any) -> tuple[Plan, list[Task]]:
        """A comparison whose folder is begun, and its tasks."""
        settings = self.settings(methods, **changes)
        plan = make_plan(settings)
        begin(settings.folder, settings, plan)
        return plan, list_tasks(settings.folder, plan)
