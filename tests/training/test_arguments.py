"""What transformers' trainer is told of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sptune.config import TrainingSection
from sptune.errors import RecipeError
from sptune.training.arguments import training_arguments

CPU = torch.device("cpu")


def test_settings_arrive(tmp_path: Path):
    settings = TrainingSection(
        epochs=2.5,
        gradient_accumulation=3,
        scheduler="cosine",
        warmup=0.2,
        max_grad_norm=0.7,
        checkpoint_every=9,
        log_every=4,
    )
    arguments = training_arguments(settings, tmp_path, seed=5, device=CPU, validates=True)
    assert (arguments.num_train_epochs, arguments.max_steps, arguments.seed) == (2.5, -1, 5)
    assert (arguments.gradient_accumulation_steps, arguments.max_grad_norm) == (3, 0.7)
    assert arguments.get_warmup_steps(50) == 10
    assert (arguments.save_steps, arguments.eval_steps, arguments.logging_steps) == (9, 9, 4)
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.report_to == []
    assert arguments.device == CPU


def test_without_validation_nothing_is_evaluated(tmp_path: Path):
    arguments = training_arguments(TrainingSection(), tmp_path, seed=0, device=CPU, validates=False)
    assert arguments.eval_strategy == "no"
    assert not arguments.load_best_model_at_end


def test_the_validation_figure_is_a_cost(tmp_path: Path):
    settings = TrainingSection(metric="fused_perplexity")
    arguments = training_arguments(settings, tmp_path, seed=0, device=CPU, validates=True)
    assert arguments.metric_for_best_model == "fused_perplexity"
    assert arguments.greater_is_better is False


@pytest.mark.parametrize("name", ["wandbb", "neptune"])
def test_a_tracker_that_is_not_there_is_refused_by_name(tmp_path: Path, name: str):
    settings = TrainingSection(report_to=("tensorboard", name))
    with pytest.raises(RecipeError, match=rf"training\.report_to: {name} is not installed.*available: .*tensorboard"):
        training_arguments(settings, tmp_path, seed=0, device=CPU, validates=False)
