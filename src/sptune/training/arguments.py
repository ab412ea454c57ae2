"""A recipe's training section as transformers' `TrainingArguments`."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from sptune.config import TrainingSection
from sptune.errors import RecipeError


def training_arguments(
    settings: TrainingSection, folder: Path, *, seed: int, device: torch.device, validates: bool
) -> TrainingArguments:
    """What transformers' trainer is told; checkpoints go to `folder`, in our own form and number.

    Raises:
        RecipeError: `training.report_to` names a tracker that is not installed.
    """
    trackers = [name for name in settings.report_to if name != "tensorboard"]
    available = get_available_reporting_integrations()
    if missing := sorted(set(trackers) - set(available)):
        raise RecipeError(
            f"training.report_to: {missing[0]} is not installed, or not known to transformers; available: "
            f"{', '.join(available)}; [] for none"
        )
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.prompt_lr,
        optim=settings.optimizer,
        weight_decay=settings.weight_decay,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=settings.warmup,  # below 1, a share of all steps
        max_grad_norm=settings.max_grad_norm,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validates else "no",
        eval_steps=settings.checkpoint_every,
        save_strategy="steps",
        save_steps=settings.checkpoint_every,
        load_best_model_at_end=validates,
        metric_for_best_model=settings.metric if validates else None,
        greater_is_better=False if validates else None,
        restore_callback_states_from_checkpoint=True,
        report_to=trackers or "none",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
        seed=seed,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # a packed batch cannot be split over several devices by transformers
    return arguments
