"""Progress of training on standard error: a bar with ETA on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from sptune.training.step_sums import PARTS
from sptune.training.trainer import SPTTrainer


class ProgressBar(TrainerCallback):
    """Shows steps, ETA, tokens/s, the losses and how evenly the prompts are used; prints validations and warnings.

    Args:
        console: where to; standard error where None.

    Attributes:
        trainer: whose warnings are printed; set it once the trainer exists.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.trainer: SPTTrainer | None = None
        self.console = console or Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._since = time.monotonic()
        self._first = self._since
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the bar."""
        self._since = self._first = time.monotonic()
        self._first_step = state.global_step
        if self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
            self._bar = Progress(
                TextColumn("training"), *columns, TextColumn("{task.fields[note]}"), console=self.console
            )
            self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step, note="")
            self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the bar."""
        if self._bar:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show the figures of the last steps."""
        logs = logs or {}
        if "total" in logs:
            speed = logs["tokens"] / max(1e-9, time.monotonic() - self._since)
            self._since = time.monotonic()
            parts = " ".join(f"{name} {logs[name]:.3f}" for name in PARTS if logs[name] or name != "balance")
            note = f"loss {logs['total']:.3f} ({parts}) usage entropy {logs['usage_entropy']:.2f} {speed:.0f} tokens/s"
            if self._bar:
                self._bar.update(self._task, note=note)
            else:
                self._print(f"step {state.global_step}/{state.max_steps} {note} ETA {self._eta(state)}")
            for warning in self.trainer.warnings if self.trainer else ():
                self._print(f"warning: {warning}")

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Print the validation figures; the time they took does not count as training speed."""
        m = metrics or {}
        self._since = time.monotonic()
        self._print(
            f"validation at step {state.global_step}: perplexity {m['eval_perplexity']:.2f} (fused {m['eval_fused_perplexity']:.2f}, "
            f"best prompt in hindsight {m['eval_oracle_perplexity']:.2f}), usage entropy {m['eval_usage_entropy']:.2f}"
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the bar."""
        self.close()

    def close(self) -> None:
        """Stop the bar, also after an error."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _eta(self, state: Any) -> str:
        done = max(1, state.global_step - self._first_step)
        seconds = int((time.monotonic() - self._first) / done * (state.max_steps - state.global_step))
        return f"{seconds // 60}:{seconds % 60:02d}"

    def _print(self, text: str) -> None:
        (self._bar.console if self._bar else self.console).print(text, markup=False, soft_wrap=True)
