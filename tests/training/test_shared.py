"""The shared start: to the last bit the training of one prompt, then K prompts that part; and it can be stopped anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Adafactor, TrainerCallback

from small_run import small_trainer, talks
from sptune.adapter import load_adapter
from sptune.errors import TrainingError
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.prompts import SoftPrompts
from sptune.model.retriever import Reading, Retriever
from sptune.model.spt import SPTModel
from sptune.training import checkpoint, trainer
from sptune.training.metrics_log import read_metrics
from sptune.training.objective import LossParts, Objective
from sptune.training.shared import SharedPrompts
from sptune.training.start_losses import BATCHES, start_losses
from sptune.training.trainer import SPTTrainer
from tiny import tiny_llama, tiny_spt

STEPS, FORK = 8, 4
LLM_ONLY = {"selection": {"weight": 0}, "contrastive": {"weight": 0}, "fusion": {"weight": 0}}


class Watch(TrainerCallback):
    """Keeps the prompts as they are before each step and after it, and the state of the optimizer after it."""

    def __init__(self) -> None:
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []
        self.moments: list[Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.before.append(model.prompts.embeddings.detach().clone())

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any):
        self.after.append(model.prompts.embeddings.detach().clone())
        kept = optimizer.state[model.prompts.embeddings]
        self.moments.append(kept["exp_avg_sq"].clone() if "exp_avg_sq" in kept else torch.zeros(0))


def one_prompt(model: SPTModel, base: LoadedBase) -> SPTModel:
    """A model of the first of the prompts alone."""
    alone = tiny_spt(base, count=1, length=model.prompts.length)
    with torch.no_grad():
        alone.prompts.embeddings.copy_(model.prompts.embeddings[:1])
    return alone


def watched(model: SPTModel, folder: Path, **settings: Any) -> Watch:
    watch = Watch()
    settings = {"max_steps": STEPS, "warmup": 0.3, "max_grad_norm": 0.05, **settings}
    small_trainer(model, folder, options={"callbacks": [watch]}, **settings).train()
    return watch


# As one prompt.


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation": 3},
        {"optimizer": "sgd"},
        {"max_grad_norm": 0},
        {"weight_decay": 0.1, "scheduler": "cosine"},
    ],
    ids=lambda settings: " ".join(settings) or "plain",
)
def test_until_the_fork_it_is_the_training_of_one_prompt_to_the_last_bit(
    tiny_base: LoadedBase, tmp_path: Path, settings: dict[str, Any]
):
    many = tiny_spt(tiny_base)
    one = one_prompt(many, tiny_base)
    alone = watched(one, tmp_path / "one", losses=LLM_ONLY, **settings)
    shared = watched(many, tmp_path / "many", shared=FORK / STEPS, **settings)
    for step in range(FORK):
        assert torch.equal(shared.after[step], alone.after[step].expand(3, -1, -1)), step
        assert torch.equal(shared.moments[step], alone.moments[step].expand_as(shared.moments[step])), step
    assert not torch.equal(alone.after[0], alone.after[1])
    distance = (shared.before[FORK] - shared.after[FORK - 1]).abs()
    assert distance.flatten(1).max(1).values.min() > 0, "each has its own noise"
    assert len({tuple(prompt.flatten().tolist()) for prompt in shared.before[FORK]}) == 3
    assert len(shared.after) == STEPS


def test_prompts_stay_equal_whatever_their_size(tiny_base: LoadedBase, tmp_path: Path):
    """Also where no vector of the processor fits in a prompt: 3 tokens of 24 numbers."""
    tokenizer = tiny_base.tokenizer
    base = LoadedBase(Backbone(tiny_llama(len(tokenizer), hidden_size=24), base="narrow"), tokenizer)
    shared = watched(tiny_spt(base, length=3), tmp_path, shared=FORK / STEPS)
    assert all(torch.equal(after, after[:1].expand_as(after)) for after in shared.after[:FORK])


@pytest.mark.parametrize("objective", ["mean", "expected", "mixture"])
def test_one_prompt_alone_has_nothing_to_part_from(tiny_model: Callable[..., SPTModel], tmp_path: Path, objective: str):
    """With the likelihood as the only loss it is a run without a shared start."""
    losses = LLM_ONLY | {"objective": objective}
    plain = watched(tiny_model(count=1), tmp_path / "plain", losses=LLM_ONLY)
    shared = watched(tiny_model(count=1), tmp_path / "shared", losses=losses, shared=0.5)
    for ours, theirs in zip(shared.after[:FORK], plain.after[:FORK], strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(shared.after[-1], plain.after[-1])


def test_one_prompt_is_run_at_the_cost_of_one(tiny_base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The base model sees B rows a step while the prompts are one, K B afterwards."""
    model = tiny_spt(tiny_base)
    run = small_trainer(model, tmp_path, shared=FORK / STEPS, max_steps=STEPS)
    forward, seen = model.forward, []

    def watch(batch: Any, **options: Any) -> Any:
        output = forward(batch, **options)
        seen.append(len(output.target_logprobs))
        return output

    monkeypatch.setattr(model, "forward", watch)
    run.train()
    assert seen[:STEPS] == [1] * FORK + [3] * (STEPS - FORK)


# Several starts.


@pytest.mark.parametrize("starts", [2, 3])
def test_several_starts_are_trained_apart_on_everything(tiny_base: LoadedBase, tmp_path: Path, starts: int):
    """Each as it would be beside the others in a run without a shared start, under the likelihood alone."""
    plain = watched(tiny_spt(tiny_base), tmp_path / "plain", losses=LLM_ONLY, max_grad_norm=0)
    shared = watched(
        tiny_spt(tiny_base), tmp_path / "shared", shared=FORK / STEPS, starts=starts, max_grad_norm=0, fork_noise=0.01
    )
    for step in range(FORK):
        torch.testing.assert_close(shared.after[step][:starts], plain.after[step][:starts], atol=1e-4, rtol=0)
    assert not torch.allclose(shared.after[FORK - 1][0], shared.after[FORK - 1][1], atol=0.1)


def test_all_go_on_from_the_best_start_and_from_its_moments(tiny_base: LoadedBase, tmp_path: Path):
    model = tiny_spt(tiny_base)
    with torch.no_grad():
        model.prompts.embeddings[[0, 2]] *= 50  # far from anything that the model was made for
    watch = watched(model, tmp_path, shared=FORK / STEPS, starts=3, fork_noise=0.001)
    before, after = watch.after[FORK - 1], watch.before[FORK]
    torch.testing.assert_close(after, before[1:2].expand_as(after), atol=0.02, rtol=0)
    assert len({tuple(prompt.flatten().tolist()) for prompt in after}) == 3, "parted by noise"
    assert not torch.allclose(watch.moments[FORK - 1][0], watch.moments[FORK - 1][1], rtol=1e-3, atol=0)


def test_the_moments_of_the_best_start_are_those_of_all():
    own = prompts()
    optimizer = torch.optim.Adam([own.embeddings], lr=0.1)
    own.embeddings.grad = torch.arange(3.0)[:, None, None].expand_as(own.embeddings).clone()
    optimizer.step()
    shared = SharedPrompts(own, share=0.5, noise=0.1, seed=0, starts=3, losses=lambda: torch.tensor([3.0, 2.0, 2.5]))
    first = own.embeddings.detach()[1].clone()
    shared.on_step_begin(None, state(5), None, optimizer=optimizer)
    kept = optimizer.state[own.embeddings]
    assert kept["exp_avg_sq"].unique().tolist() == pytest.approx([0.001])
    assert kept["exp_avg"].unique().tolist() == pytest.approx([0.1])
    noise = own.embeddings.detach() - first
    assert float(noise.std() / first.std()) == pytest.approx(0.1, rel=0.1)


def test_the_factored_moments_of_the_best_start_are_those_of_all():
    """Adafactor keeps a mean for each virtual token of a prompt, and one for each dimension."""
    own = prompts()
    optimizer = Adafactor([own.embeddings], lr=0.1, scale_parameter=False, relative_step=False)
    own.embeddings.grad = torch.arange(1.0, 4.0)[:, None, None].expand_as(own.embeddings).clone()
    optimizer.step()
    kept = optimizer.state[own.embeddings]
    parts = {name: kept[f"exp_avg_sq_{name}"].clone() for name in ("row", "col")}
    assert {name: part.shape for name, part in parts.items()} == {"row": (3, 4), "col": (3, 32)}
    shared = SharedPrompts(own, share=0.5, noise=0.1, seed=0, starts=3, losses=lambda: torch.tensor([3.0, 2.0, 2.5]))
    shared.on_step_begin(None, state(5), None, optimizer=optimizer)
    for name, part in parts.items():
        assert not torch.equal(part[0], part[1])
        assert torch.equal(kept[f"exp_avg_sq_{name}"], part[1:2].expand_as(part))


def test_prompts_are_their_starts_until_they_part_and_have_their_moments():
    own = prompts(4)
    before = own.embeddings.detach().clone()
    shared = SharedPrompts(own, share=0.5, noise=1e-6, seed=0, starts=2, keep=True)
    assert torch.equal(own.embeddings, before[[0, 1, 0, 1]])
    optimizer = torch.optim.Adam([own.embeddings], lr=0.1)
    own.embeddings.grad = torch.tensor([1.0, 2, 0, 0])[:, None, None].expand_as(own.embeddings).clone()
    shared.on_pre_optimizer_step(SimpleNamespace(max_grad_norm=0), state(4), None)
    optimizer.step()
    shared.on_optimizer_step(None, state(4), None)
    assert optimizer.state[own.embeddings]["exp_avg"][:, 0, 0].tolist() == pytest.approx([0.2, 0.4, 0.2, 0.4])
    learned = own.embeddings.detach().clone()
    assert torch.equal(learned[:2], learned[2:])
    assert not torch.equal(learned[0], learned[1])
    shared.on_step_begin(None, state(5), None, optimizer=optimizer)
    assert not torch.equal(own.embeddings[0], own.embeddings[2])
    torch.testing.assert_close(own.embeddings.detach(), learned, atol=1e-4, rtol=0)


def test_kept_starts_are_families_after_the_fork(tiny_base: LoadedBase, tmp_path: Path):
    """Before it, the first two learn apart, each as long a step as alone; after it there are two prompts of each."""
    model = tiny_spt(tiny_base, count=4)
    first = one_prompt(model, tiny_base)
    alone = watched(first, tmp_path / "alone", losses=LLM_ONLY, optimizer="sgd")
    options = {"shared": FORK / STEPS, "starts": 2, "keep_starts": True, "fork_noise": 1e-3, "optimizer": "sgd"}
    watch = watched(model, tmp_path / "kept", **options)
    for step in range(FORK):
        torch.testing.assert_close(watch.after[step][:1], alone.after[step], atol=2e-5, rtol=0)
    origin, parted = watch.after[FORK - 1][[0, 1, 0, 1]], watch.before[FORK]
    torch.testing.assert_close(parted, origin, atol=0.01, rtol=0)
    assert len({tuple(prompt.flatten().tolist()) for prompt in parted}) == 4
    assert not torch.allclose(parted[0], parted[1], atol=0.1)


def test_losses_of_the_starts_are_means_over_tokens(tiny_base: LoadedBase, tmp_path: Path):
    run = small_trainer(tiny_spt(tiny_base), tmp_path, shared=0.5, starts=2, max_steps=STEPS)
    batches = list(run.get_train_dataloader())
    found = start_losses(run.spt, batches, starts=2)
    logprobs = torch.cat([run.spt(one["batch"]).target_logprobs for one in batches[-BATCHES:]], dim=1)
    torch.testing.assert_close(found, -logprobs[:2].detach().mean(1), atol=1e-5, rtol=0)


# When and how they part.


def state(step: int, steps: int = 10) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=steps)


def prompts(count: int = 3) -> SoftPrompts:
    return SoftPrompts(torch.randn(count, 4, 32, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("share", "steps", "together"),
    [(0.0, 10, 0), (0.01, 10, 1), (0.5, 10, 5), (0.5, 7, 4), (0.99, 10, 9), (0.99, 1000, 990), (0.5, 1, 0)],
)
def test_the_share_is_rounded_up_and_leaves_a_step_at_least(share: float, steps: int, together: int):
    shared = SharedPrompts(prompts(), share=share, noise=0.1, seed=0)
    assert [shared.together(state(step, steps)) for step in range(steps)] == [step < together for step in range(steps)]
    assert shared.progress_apart(state(together, steps)) == 0
    assert shared.progress_apart(state(steps, steps)) == 1
    progress = [shared.progress_apart(state(step, steps)) for step in range(steps + 1)]
    assert progress == sorted(progress)


def test_without_a_share_nothing_is_touched():
    own = prompts()
    before = own.embeddings.detach().clone()
    shared = SharedPrompts(own, share=0, noise=0.1, seed=0)
    own.embeddings.grad = torch.ones_like(before) * torch.arange(3.0)[:, None, None]
    for event in (shared.on_step_begin, shared.on_pre_optimizer_step, shared.on_optimizer_step):
        event(None, state(0), None)
    assert torch.equal(own.embeddings, before)
    assert own.embeddings.grad[:, 0, 0].tolist() == [0, 1, 2]


def test_rounding_does_not_part_them():
    """Until they are meant to, the first is what all are."""
    own = prompts()
    shared = SharedPrompts(own, share=0.5, noise=0.1, seed=0)
    with torch.no_grad():
        own.embeddings[1:].mul_(1 + 1e-6)
    shared.on_optimizer_step(None, state(4), None)
    assert torch.equal(own.embeddings, prompts().embeddings[:1].expand(3, -1, -1))
    with torch.no_grad():
        own.embeddings[1:].mul_(2)
    shared.on_optimizer_step(None, state(5), None)
    assert not torch.equal(own.embeddings[1], own.embeddings[0])


def test_they_part_once_by_noise_of_the_size_asked_for():
    own, calls = prompts(), []
    first = own.embeddings.detach()[0].clone()
    shared = SharedPrompts(own, share=0.5, noise=0.1, seed=7, parted=lambda: calls.append(1))
    assert torch.equal(own.embeddings, first.expand(3, -1, -1))
    shared.on_step_begin(None, state(4), None)
    assert torch.equal(own.embeddings, first.expand(3, -1, -1))
    shared.on_step_begin(None, state(5), None)
    noise = own.embeddings.detach() - first
    assert float(noise.std() / first.std()) == pytest.approx(0.1, rel=0.1)
    assert float(torch.corrcoef(noise.flatten(1)).triu(1).abs().max()) < 0.25, "each prompt has its own"
    parted = own.embeddings.detach().clone()
    shared.on_step_begin(None, state(5), None)
    assert torch.equal(own.embeddings, parted), "as after a step that was tried again"
    assert calls == [1]

    again, other = prompts(), prompts()
    for new, seed in ((again, 7), (other, 8)):
        SharedPrompts(new, share=0.5, noise=0.1, seed=seed).on_step_begin(None, state(5), None)
    assert torch.equal(again.embeddings, parted)
    assert not torch.equal(other.embeddings, parted)


# Which adapter is kept.


def with_perplexities(
    monkeypatch: pytest.MonkeyPatch, model: SPTModel | LoadedBase, folder: Path, coming: list[float], **settings: Any
) -> SPTTrainer:
    """A run whose validations, one a step, give these perplexities."""
    left = iter(coming)
    monkeypatch.setattr(trainer, "validate", lambda *_: {"perplexity": next(left)})
    options = {"validation": talks(2, seed=1)}
    settings = {"checkpoint_every": 1, "keep_checkpoints": 9, "max_steps": STEPS, **settings}
    return small_trainer(model, folder, options=options, **settings)


@pytest.mark.parametrize("more", [{}, {"starts": 3}], ids=["one start", "three starts"])
def test_prompts_that_are_still_one_are_never_the_best(
    tiny_base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
):
    """Nor do they end training early: patience begins with the first validation of prompts that have parted."""
    coming = [1.0, 2.0, 3.0, 4.0, 9.0, 8.0, 8.5, 8.7]
    run = with_perplexities(
        monkeypatch, tiny_base, tmp_path, coming, shared=FORK / STEPS, early_stopping=2, fork_noise=0.5, **more
    )
    assert run.train().global_step == STEPS
    assert run.state.best_global_step == FORK + 2
    best = load_adapter(tmp_path / "checkpoints" / f"checkpoint-{FORK + 2}" / "adapter").tensors["prompts"]
    assert torch.equal(run.spt.prompts.embeddings, best)
    assert len({tuple(prompt.flatten().tolist()) for prompt in best}) == 3
    records = [record for record in read_metrics(run.metrics.path) if record["kind"] == "validation"]
    assert [record["parted"] for record in records] == [False] * FORK + [True] * (STEPS - FORK)


def test_a_single_prompt_may_be_the_best_from_the_first_step(
    tiny_base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alone = tiny_spt(tiny_base, count=1)
    run = with_perplexities(monkeypatch, alone, tmp_path, [2.0, 1.0, *[3.0] * 6], shared=FORK / STEPS)
    run.train()
    assert run.state.best_global_step == 2


# Stopped and resumed.

EVERYTHING = {
    "objective": "mixture",
    "balance_weight": 0.1,
    "shuffle_teachers": True,
    "selection": {"kind": "regret", "student_temperature": 0.2},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "published losses": {"losses": {"selection": {"teacher_noise": 0.3}}},
    "everything else": {"losses": EVERYTHING, "gradient_accumulation": 2},
    "several starts": {"starts": 3},
}


def reader(base: LoadedBase) -> SPTModel:
    """Hidden states, whitened, against keys of clusters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        retriever = Retriever("linear", dim=32, reading=Reading("hidden", rank=8), keys=3)
    return tiny_spt(base, retriever=retriever)


def make(base: LoadedBase, folder: Path, variant: str, *callbacks: TrainerCallback) -> SPTTrainer:
    options = {"validation": talks(2, seed=1), "callbacks": callbacks, "clusters": True}
    return small_trainer(
        reader(base),
        folder,
        train=talks(13),
        options=options,
        **{"max_steps": STEPS, "shared": FORK / STEPS, "checkpoint_every": 1, "warmup": 0.2, **VARIANTS[variant]},
    )


class Crash(TrainerCallback):
    """Dies after a step, before it is saved."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.after:
            raise RuntimeError("the power is gone")


def weights(folder: Path) -> bytes:
    last = folder / "checkpoints" / f"checkpoint-{STEPS}" / "adapter" / "adapter_model.safetensors"
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes() + last.read_bytes()


@pytest.fixture(scope="module")
def straight(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SPTTrainer]:
    runs = {name: make(tiny_base, tmp_path_factory.mktemp("straight"), name) for name in VARIANTS}
    for run in runs.values():
        run.train()
    return runs


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("newest", [FORK - 2, FORK - 1, FORK, FORK + 1, STEPS - 1])
def test_resuming_before_at_and_after_the_fork_is_exact(
    tiny_base: LoadedBase, tmp_path: Path, straight: dict[str, SPTTrainer], variant: str, newest: int
):
    with pytest.raises(RuntimeError, match="the power is gone"):
        make(tiny_base, tmp_path, variant, Crash(newest + 1)).train()
    assert checkpoint.newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / f"checkpoint-{newest}"
    make(tiny_base, tmp_path, variant).train(resume=True)
    assert weights(tmp_path) == weights(straight[variant].folder)


class _NotFinite:
    """An objective whose total is not finite once the prompts have parted."""

    fuses_logits = False

    def __init__(self, objective: Objective) -> None:
        self.shared = objective.shared
        self._objective = objective

    def __call__(self, *args: Any, **kwargs: Any) -> LossParts:
        parts = self._objective(*args, **kwargs)
        return replace(parts, total=parts.total * math.nan)


def test_a_loss_that_is_not_finite_at_the_fork_does_not_part_the_prompts_twice(
    tiny_base: LoadedBase, tmp_path: Path, straight: dict[str, SPTTrainer]
):
    """The state that is kept then has prompts that have parted already."""
    run = make(tiny_base, tmp_path, "published losses")
    run.objective = _NotFinite(run.objective)  # type: ignore[assignment]
    with pytest.raises(TrainingError, match=rf"loss of step {FORK + 1} is not finite"):
        run.train()
    assert checkpoint.newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / f"checkpoint-{FORK}"
    make(tiny_base, tmp_path, "published losses").train(resume=True)
    assert weights(tmp_path) == weights(straight["published losses"].folder)


# What is said of it.


def test_no_warning_is_about_prompts_that_are_meant_to_be_one(tiny_base: LoadedBase, tmp_path: Path):
    """They are alike and the first is chosen by all; figures of the time before are forgotten when they part."""
    run = small_trainer(tiny_base, tmp_path, shared=0.75, max_steps=STEPS, log_every=1, fork_noise=0.5)
    run.train()
    records = [record for record in read_metrics(run.metrics.path) if record["kind"] == "train"]
    assert [len(record["warnings"]) for record in records[:6]] == [0] * 6
    assert all(record["specialisation"] == 0 and record["regret"] == 0 for record in records[:6])
    assert all(record["usage"] == [1, 0, 0] for record in records[:6])
    assert all(record["specialisation"] > 0 for record in records[6:])
    assert all(record["llm"] == record["total"] for record in records[:6])
    assert all(record["contrastive"] == 0 for record in records[:6])


@pytest.mark.parametrize("settings", [{}, {"optimizer": "sgd"}, {"max_grad_norm": 0, "optimizer": "sgd"}], ids=str)
def test_after_the_fork_a_step_is_as_long_as_before(tiny_base: LoadedBase, tmp_path: Path, settings: dict[str, Any]):
    """Without noise, each of the K goes on as one prompt alone would, though its gradient is a K-th of it in a mean over prompts."""
    many = tiny_spt(tiny_base)
    one = one_prompt(many, tiny_base)
    alone = watched(one, tmp_path / "one", losses=LLM_ONLY, **settings)
    shared = watched(many, tmp_path / "many", losses=LLM_ONLY, shared=FORK / STEPS, fork_noise=0, **settings)
    way = float((alone.after[-1] - alone.after[FORK - 1]).abs().max())
    assert way > 1e-4
    for step in range(STEPS):
        wanted = alone.after[step].expand(3, -1, -1)
        torch.testing.assert_close(shared.after[step], wanted, atol=0.02 * way, rtol=0)


def test_parted_prompts_are_clipped_one_by_one():
    own = prompts()
    shared = SharedPrompts(own, share=0.5, noise=0.1, seed=0)
    small, large = torch.full((4, 32), 1e-3), torch.full((4, 32), 1.0)
    own.embeddings.grad = torch.stack([small, large, torch.zeros(4, 32)])
    shared.on_pre_optimizer_step(SimpleNamespace(max_grad_norm=0.5), state(5), None)
    assert torch.equal(own.embeddings.grad[0], 3 * small)
    torch.testing.assert_close(own.embeddings.grad[1], large * 0.5 / large.norm())
    assert not own.embeddings.grad[2].any()
    own.embeddings.grad = torch.stack([small, large, small])
    shared.on_pre_optimizer_step(SimpleNamespace(max_grad_norm=0), state(5), None)
    assert torch.equal(own.embeddings.grad, 3 * torch.stack([small, large, small]))


def test_without_noise_and_anything_else_to_part_them_they_stay_one(tiny_base: LoadedBase, tmp_path: Path):
    """Which is why a recipe may not ask for it (tests/test_config.py)."""
    run = small_trainer(tiny_base, tmp_path, shared=0.5, max_steps=STEPS, fork_noise=0)
    run.train()
    own = run.spt.prompts.embeddings.detach()
    torch.testing.assert_close(own, own[:1].expand_as(own), atol=1e-5, rtol=0)


def test_keys_and_a_gate_part_prompts_without_noise(tiny_base: LoadedBase, tmp_path: Path):
    losses = {"objective": "expected", "gate_temperature": 0.1}
    run = small_trainer(
        reader(tiny_base),
        tmp_path,
        losses=losses,
        options={"clusters": True},
        shared=0.5,
        max_steps=STEPS,
        fork_noise=0,
    )
    run.train()
    own = run.spt.prompts.embeddings.detach()
    assert (own - own[:1]).abs().flatten(1).max(1).values[1:].min() > 1e-3
