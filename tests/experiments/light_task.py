"""Stands for the process of a task: claims, writes what a real one writes, and is told by the label how to end. Trains nothing, so it starts
in a fraction of a second.

    python light_task.py DIR LABEL SEED [--rate RATE] [--retry]
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from sptune.cli.compare_task import _stop_at_end_of_input
from sptune.experiments.claim import claimed
from sptune.experiments.folders import cell_folder, trial_folder

PARTS = {"top1": ["likelihood", "ranking", "generation"], "random": ["generation"], "best-single": ["generation"]}


def note(comparison: Path, event: str, name: str) -> None:
    with (comparison.parent / "events.jsonl").open("a") as file:
        file.write(json.dumps([event, name, time.monotonic(), os.environ["OMP_NUM_THREADS"]]) + "\n")


def is_over(comparison: Path, folder: Path, label: str, rate: float | None) -> bool:
    """Whether another grid's process was quicker."""
    if rate is None:
        return (folder / "cell.json").exists()
    lines = (comparison / "tuning.jsonl").read_text().splitlines() if (comparison / "tuning.jsonl").exists() else []
    return any((json.loads(line)["method"], json.loads(line)["learning_rate"]) == (label, rate) for line in lines)


def finish(comparison: Path, folder: Path, label: str, rate: float | None) -> int:
    failed = label.startswith("fails")
    if rate is not None:
        line = {"method": label, "setting": {}, "learning_rate": rate, "perplexity": None if failed else rate}
        with (comparison / "tuning.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return int(failed)
    status = {"status": "failed" if failed else "done", "error": "it fails\nalways" if failed else None}
    rest = {"train_seconds": 1.0, "evaluate_seconds": 0.5, "learning_rate": None, "evaluations": PARTS}
    (folder / "cell.json").write_text(json.dumps(status | rest))
    return int(failed)


def main(comparison: Path, label: str, seed: int, rate: float | None) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    folder = cell_folder(comparison, label, seed) if rate is None else trial_folder(comparison, label, rate)
    name = f"{label} {seed if rate is None else rate:g}"
    with claimed(folder) as held:
        if not held:
            return 75
        if "--retry" not in sys.argv and is_over(comparison, folder, label, rate):
            return 75
        try:
            note(comparison, "begin", name)
            time.sleep(60 if (comparison.parent / "slowly").exists() else 0.1)
        except KeyboardInterrupt:
            note(comparison, "stop", name)
            return 130
        sys.stdout.write("almost done\n")
        sys.stdout.flush()
        if label.startswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if label.startswith("stopped"):
            return 130
        if label.startswith("broken"):
            sys.exit(3)
        note(comparison, "end", name)
        return finish(comparison, folder, label, rate)


if __name__ == "__main__":
    rate = float(sys.argv[5]) if "--rate" in sys.argv else None
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), rate))
