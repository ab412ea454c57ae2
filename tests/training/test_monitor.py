"""The monitor: figures by hand, and warnings that come when they should, once, in words to act on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sptune.model.figures import SelectionFigures
from sptune.model.spt import SPTModel
from sptune.training.monitor import ALIKE_NATS, COLLAPSE_SHARE, Monitor, prompt_figures

HEALTHY = SelectionFigures(usage=(0.5, 0.5), entropy=1.0, agreement=0.6, regret=0.1, specialisation=0.2, margin=0.1)
COLLAPSED = replace(HEALTHY, usage=(0.02, 0.98), entropy=0.14)
ALIKE = replace(HEALTHY, specialisation=0.001)


def test_figures_by_hand():
    """Four contexts; prompts 0, 0, 1, 2 are chosen, prompts 0, 1, 1, 0 are best.

    Chosen minus best: 0, 3 - 1, 0, 5 - 2; mean of three minus best: (1+2+3)/3 - 1, (3+1+2)/3 - 1, (4+1+4)/3 - 1, (2+5+5)/3 - 2.
    """
    monitor = Monitor()
    monitor.add(torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.5, 0.2]]), torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]))
    monitor.add(torch.tensor([[0.1, 0.4, 0.2], [0.1, 0.1, 0.2]]), torch.tensor([[4.0, 1.0, 4.0], [2.0, 5.0, 5.0]]))
    figures = monitor.figures()
    assert figures.usage == (0.5, 0.25, 0.25)
    assert figures.entropy == pytest.approx(1.5 * math.log(2) / math.log(3))
    assert figures.agreement == 0.5
    assert figures.regret == pytest.approx((0 + 2 + 0 + 3) / 4)
    assert figures.specialisation == pytest.approx((1 + 1 + 2 + 2) / 4)
    assert figures.margin == pytest.approx((0.7 + 0.4 + 0.2 + 0.1) / 4)


def test_only_the_last_contexts_count():
    monitor = Monitor(window=3)
    monitor.add(torch.tensor([[1.0, 0.0]] * 5), torch.ones(5, 2))
    monitor.add(torch.tensor([[0.0, 1.0]] * 3), torch.ones(3, 2))
    assert monitor.figures().usage == (0.0, 1.0)


def test_what_is_forgotten_does_not_count():
    monitor = Monitor()
    monitor.add(torch.tensor([[1.0, 0.0]] * 5), torch.ones(5, 2))
    monitor.forget()
    monitor.add(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 3.0]]))
    figures = monitor.figures()
    assert (figures.usage, figures.regret) == ((0.0, 1.0), 2.0)


def test_what_is_kept_holds_no_graph():
    monitor = Monitor()
    scores = torch.rand(2, 2, requires_grad=True)
    monitor.add(scores * 2, torch.rand(2, 2, requires_grad=True) * 2)
    assert not any(kept.requires_grad for kept in (*monitor._scores, *monitor._nll))


# Warnings.


def test_a_healthy_run_is_not_warned_about():
    assert Monitor().warnings(HEALTHY, progress=1.0) == []


def test_collapse_is_told_with_the_prompt_the_share_and_what_to_try():
    (warning,) = Monitor().warnings(COLLAPSED, progress=0.5)
    assert warning.startswith("the retriever has collapsed: 98% of contexts choose prompt 1. Try ")
    assert "retriever.centre=true" in warning
    assert "retriever.keys=clusters" in warning
    assert "losses.update=responsibility" in warning
    assert "losses.balance_weight" in warning


def test_what_the_run_has_already_is_not_proposed():
    (warning,) = Monitor(centred=True, responsibility=True).warnings(COLLAPSED, progress=0.5)
    assert " Try retriever.keys=clusters, " in warning
    assert "retriever.centre" not in warning
    assert "losses.update" not in warning
    (warning,) = Monitor(responsibility=True).warnings(ALIKE, progress=0.5)
    assert "losses.update" not in warning


def test_alike_prompts_are_told_with_the_figure_and_what_to_try():
    (warning,) = Monitor().warnings(ALIKE, progress=0.5)
    assert "the prompts stay alike" in warning
    assert "0.0010 nats per token" in warning
    assert "losses.update=responsibility" in warning


def test_each_warning_comes_once_and_both_can_come():
    monitor = Monitor()
    assert len(monitor.warnings(COLLAPSED, progress=0.5)) == 1
    assert monitor.warnings(COLLAPSED, progress=0.6) == []
    both = replace(COLLAPSED, specialisation=0.0)
    (second,) = monitor.warnings(both, progress=0.7)
    assert "alike" in second
    assert monitor.warnings(both, progress=0.8) == []
    assert len(Monitor().warnings(both, progress=0.8)) == 2


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0), (0.09, 0), (0.1, 1), (0.29, 1), (0.3, 2), (1.0, 2)])
def test_training_is_given_time_first(progress: float, expected: int):
    """A tenth of training for collapse, three tenths for prompts that stay alike."""
    assert len(Monitor().warnings(replace(COLLAPSED, specialisation=0.0), progress=progress)) == expected


@pytest.mark.parametrize(("share", "expected"), [(COLLAPSE_SHARE, 1), (COLLAPSE_SHARE - 0.001, 0)])
def test_the_bar_of_collapse(share: float, expected: int):
    figures = replace(HEALTHY, usage=(share, 1 - share))
    assert len(Monitor().warnings(figures, progress=1)) == expected


@pytest.mark.parametrize(("nats", "expected"), [(ALIKE_NATS, 0), (ALIKE_NATS * 0.99, 1)])
def test_the_bar_of_being_alike(nats: float, expected: int):
    assert len(Monitor().warnings(replace(HEALTHY, specialisation=nats), progress=1)) == expected


def test_one_prompt_cannot_collapse():
    alone = SelectionFigures(usage=(1.0,), entropy=1.0, agreement=1.0, regret=0.0, specialisation=0.0, margin=0.0)
    assert Monitor().warnings(alone, progress=1) == []


def test_the_advice_names_keys_that_exist():
    from sptune.config.mistakes import known_keys
    from sptune.config.recipe import Recipe

    known = known_keys(Recipe)
    for warning in Monitor().warnings(replace(COLLAPSED, specialisation=0.0), progress=1):
        named = {
            word.split("=")[0].strip(",.;") for word in warning.split() if word.count(".") >= 1 and word[0].isalpha()
        }
        keys = {word for word in named if word.split(".")[0] in ("losses", "retriever", "training", "prompts")}
        assert keys
        assert keys <= set(known)


# The prompts themselves.


def test_norm_ratio_and_similarity_by_hand(tiny_model: Callable[..., SPTModel]):
    """Prompts 0 and 1 point the same way, 2 is orthogonal; every virtual token is twice as long as the vocabulary's mean."""
    model = tiny_model(count=3, length=2)
    norm = float(model.backbone.embedding_table.norm(dim=1).mean())
    with torch.no_grad():
        model.prompts.embeddings.zero_()
        model.prompts.embeddings[:2, :, 0] = 2 * norm
        model.prompts.embeddings[2, :, 1] = 2 * norm
    figures = prompt_figures(model)
    assert figures.norm_ratio == pytest.approx(2)
    torch.testing.assert_close(
        torch.tensor(figures.similarity), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    )


def test_a_model_without_virtual_tokens_has_no_prompt_figures(tiny_model: Callable[..., SPTModel]):
    assert prompt_figures(tiny_model(count=1, length=0)).similarity == ()


def test_every_warning_is_explained_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    warnings = Monitor().warnings(replace(COLLAPSED, specialisation=0.004), progress=1)
    assert len(warnings) == 2
    assert all(f'**"{warning.partition(",")[0].partition(". ")[0]}' in text for warning in warnings)
    assert f"{COLLAPSE_SHARE:.0%}" in text
    assert f"below {ALIKE_NATS} " in text
