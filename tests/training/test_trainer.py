"""Training on a tiny model: what changes, what is written, which adapter is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from small_run import small_trainer, talks
from sptune.adapter import load_adapter
from sptune.config import LossesSection
from sptune.data.dialogue import Dialogue
from sptune.errors import RecipeError, StorageError
from sptune.model.load import LoadedBase
from sptune.model.mixture import Speakers
from sptune.model.retriever import Reading, Retriever
from sptune.model.spt import SPTModel
from sptune.training import checkpoint, trainer
from sptune.training.metrics_log import read_metrics
from sptune.training.trainer import SPTTrainer
from sptune.training.validation import validate
from tiny import tiny_spt

LLM_ONLY = {"selection": {"weight": 0}, "contrastive": {"weight": 0}, "fusion": {"weight": 0}}


def trained(model: SPTModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def steps_of(folder: Path) -> set[int]:
    return {checkpoint.step_of(path) for path in (folder / "checkpoints").glob("checkpoint-*")}


class Watch(TrainerCallback):
    """Keeps the gradients and weights of the first step, as they were before it."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 0:
            named = [(name, p) for name, p in model.named_parameters() if p.grad is not None]
            self.gradients = {name: p.grad.clone() for name, p in named}
            self.weights = {name: p.detach().clone() for name, p in named}


@pytest.fixture(scope="module")
def finished(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> SPTTrainer:
    """A whole run with validation, TensorBoard and all losses, of 3 epochs."""
    folder = tmp_path_factory.mktemp("run")
    run = small_trainer(
        tiny_base,
        folder,
        options={"validation": talks(3, seed=1)},
        epochs=3,
        prompt_lr=0.3,
        checkpoint_every=5,
        report_to=("tensorboard",),
    )
    run.backbone_before = {name: p.clone() for name, p in run.spt.backbone.state_dict().items()}  # type: ignore[attr-defined]
    run.trained_before = trained(run.spt)  # type: ignore[attr-defined]
    run.perplexity_before = validate(run.spt, talks(12))["prompt_perplexity"]  # type: ignore[attr-defined]
    run.train()
    return run


@pytest.fixture(scope="module")
def records(finished: SPTTrainer) -> list[dict[str, Any]]:
    return read_metrics(finished.metrics.path)


# What training does.


def test_the_loss_falls(finished: SPTTrainer):
    """On the training dialogues, under every prompt."""
    before, after = finished.perplexity_before, validate(finished.spt, talks(12))["prompt_perplexity"]  # type: ignore[attr-defined]
    assert all(now < 0.7 * then for then, now in zip(before, after, strict=True)), (before, after)


def test_only_prompts_and_retriever_change(finished: SPTTrainer):
    for name, tensor in finished.spt.backbone.state_dict().items():
        assert torch.equal(tensor, finished.backbone_before[name]), name  # type: ignore[attr-defined]
    after = trained(finished.spt)
    assert {name.split(".")[0] for name in after} == {"prompts", "retriever"}
    for name, tensor in after.items():
        assert not torch.equal(tensor, finished.trained_before[name]), name  # type: ignore[attr-defined]


def test_each_part_has_its_own_learning_rate(tiny_base: LoadedBase, tmp_path: Path):
    """One step of plain SGD without clipping: weights move by learning rate times gradient."""
    watch = Watch()
    run = small_trainer(
        tiny_base,
        tmp_path,
        options={"callbacks": [watch]},
        optimizer="sgd",
        scheduler="constant",
        max_grad_norm=0,
        max_steps=1,
        prompt_lr=0.3,
        retriever_lr=0.02,
    )
    run.train()
    assert {name.split(".")[0] for name in watch.gradients} == {"prompts", "retriever"}
    for name, after in trained(run.spt).items():
        rate = 0.3 if name.startswith("prompts") else 0.02
        torch.testing.assert_close(after, watch.weights[name] - rate * watch.gradients[name])
        assert bool(watch.gradients[name].abs().sum() > 0), name


def test_the_rate_that_is_logged_is_the_one_of_the_step(tiny_base: LoadedBase, tmp_path: Path):
    run = small_trainer(tiny_base, tmp_path, scheduler="linear", max_steps=4, log_every=1, prompt_lr=0.4, warmup=0)
    run.train()
    records = [record for record in read_metrics(run.metrics.path) if record["kind"] == "train"]
    assert [record["learning_rate"] for record in records] == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_gradients_are_clipped_together(tiny_base: LoadedBase, tmp_path: Path):
    watch = Watch()
    small_trainer(tiny_base, tmp_path, options={"callbacks": [watch]}, max_steps=1, max_grad_norm=1e-3).train()
    norm = torch.cat([gradient.flatten() for gradient in watch.gradients.values()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_accumulated_batches_are_one_large_batch(tiny_model: Callable[..., SPTModel], tmp_path: Path):
    """16 dialogues of equally many tokens, one step an epoch: 16 batches of 1 accumulated give the gradient of 8 batches of 2."""
    gradients = []
    talk = talks(1, turns=2, words=4)[0]
    same_length = [Dialogue(f"d{n}", talk.persona[::-1] if n % 2 else talk.persona, talk.turns) for n in range(16)]
    for per_batch in (1, 2):
        watch = Watch()
        model = tiny_model()
        tokens = model.prompts.length + len(model.encoder.encode(talk)[0].input_ids)
        run = small_trainer(
            model,
            tmp_path / str(per_batch),
            train=same_length,
            losses=LLM_ONLY,
            options={"callbacks": [watch]},
            batch_tokens=tokens * per_batch,
            gradient_accumulation=16 // per_batch,
            epochs=1,
            max_grad_norm=0,
        )
        assert len(run.get_train_dataloader()) == 16 // per_batch
        assert run.train().global_step == 1
        gradients.append(watch.gradients["prompts.embeddings"])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_the_prompts_stay_in_float32_on_a_bfloat16_base(tiny_tokenizer: Any, tmp_path: Path):
    from sptune.model.backbone import Backbone
    from tiny import tiny_llama

    base = LoadedBase(Backbone(tiny_llama(len(tiny_tokenizer)).bfloat16(), base="tiny"), tiny_tokenizer)
    run = small_trainer(base, tmp_path, max_steps=2)
    run.train()
    assert {p.dtype for p in trained(run.spt).values()} == {torch.float32}
    assert {p.dtype for p in run.spt.backbone.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["linear", "mlp", "transformer", "identity"])
def test_every_retriever_trains(tiny_model: Callable[..., SPTModel], tmp_path: Path, kind: str):
    run = small_trainer(tiny_model(retriever=kind), tmp_path, max_steps=2)
    before = trained(run.spt)
    run.train()
    assert all(not torch.equal(tensor, before[name]) for name, tensor in trained(run.spt).items())


def test_one_prompt_trains(tiny_model: Callable[..., SPTModel], tmp_path: Path):
    """Plain prompt tuning: nothing to select, no warning, usage entropy 1."""
    run = small_trainer(tiny_model(count=1), tmp_path, max_steps=4)
    run.train()
    assert all(
        r["usage"] == [1.0] and r["usage_entropy"] == 1.0 and not r["warnings"] for r in read_metrics(run.metrics.path)
    )


# The mean context vector.


def test_centre_is_estimated_on_the_training_dialogues(tiny_model: Callable[..., SPTModel], tmp_path: Path):
    model = tiny_model()
    run = small_trainer(model, tmp_path)
    vectors = [
        model.backbone.embed(torch.tensor([sequence.input_ids[: span.context_length]]))[0].mean(0)
        for sequence in run.sequences
        for span in sequence.spans
    ]
    centre = model.retriever.centre.clone()
    torch.testing.assert_close(centre, torch.stack(vectors).mean(0))
    run.train()
    assert torch.equal(model.retriever.centre, centre), "it is no parameter"


def test_centre_can_be_left_out(tiny_model: Callable[..., SPTModel], tmp_path: Path):
    model = tiny_model()
    small_trainer(model, tmp_path, options={"centre": False}, max_steps=1).train()
    assert not bool(model.retriever.centre.any())


def test_a_resumed_run_keeps_the_centre_of_its_checkpoint(tiny_model: Callable[..., SPTModel], tmp_path: Path):
    """Equal to the fresh estimate on the same dialogues, and in force whatever a fresh estimate would be."""
    small_trainer(tiny_model(), tmp_path, max_steps=3).train()
    saved = load_adapter(tmp_path / "checkpoints" / "checkpoint-3" / "adapter").tensors["retriever.centre"]
    same = tiny_model()
    run = small_trainer(same, tmp_path, max_steps=3)
    assert torch.equal(same.retriever.centre, saved)
    same.retriever.centre.add_(1)
    run.train(resume=True)
    assert torch.equal(same.retriever.centre, saved)


# Every retriever and objective.

OPTIONS: dict[str, dict[str, Any]] = {
    "recent": {"reading": Reading("recent", half_life=3)},
    "whitened": {"reading": Reading(rank=6)},
    "keys": {"keys": 3},
    "hidden, whitened, with keys": {"reading": Reading("hidden", rank=6), "keys": 3, "activation": "none"},
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "expected": {"objective": "expected", "uniform_share": 0.1},
    "mixture": {"objective": "mixture", "balance_weight": 0.1},
    "regret": {"selection": {"kind": "regret"}},
    "shuffled": {"shuffle_teachers": True},
}


@pytest.mark.parametrize(
    ("name", "objective"),
    [(name, "mixture") for name in OPTIONS] + [("keys", name) for name in OBJECTIVES if name != "mixture"],
)
def test_every_way_to_read_trains_by_every_objective(tiny_base: LoadedBase, tmp_path: Path, name: str, objective: str):
    """Prompts, map and keys move; centre and whitener are set before the first step and stay; it all comes back."""
    torch.manual_seed(0)
    model = tiny_spt(tiny_base, retriever=Retriever("linear", **{"dim": 32, **OPTIONS[name]}))
    clusters = model.retriever.keys is not None
    run = small_trainer(model, tmp_path, losses=OBJECTIVES[objective], options={"clusters": clusters}, max_steps=3)
    before, prepared = trained(model), {key: value.clone() for key, value in model.retriever.named_buffers()}
    assert all(bool(value.any()) for value in prepared.values())
    run.train()
    assert all(not torch.equal(tensor, before[key]) for key, tensor in trained(model).items())
    assert all(torch.equal(value, prepared[key]) for key, value in model.retriever.named_buffers())
    loaded = SPTModel.from_pretrained(tmp_path / "adapter", base=tiny_base)
    contexts = [talk.context(0) for talk in talks(3, seed=5)]
    assert torch.equal(loaded.scores(contexts), model.scores(contexts))
    balances = [record["balance"] for record in read_metrics(run.metrics.path) if record["kind"] == "train"]
    assert all((balance > 0) == (objective == "mixture") for balance in balances)


TEACHERS: dict[str, dict[str, Any]] = {
    "expected": {"objective": "expected"},
    "mixture": {"objective": "mixture"},
    "regret": {
        "llm_weight": 0,
        "selection": {"kind": "regret", "student_temperature": 0.1},
        "fusion": {"weight": 1e-9},
    },
}


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_retriever_learns_to_choose_what_is_better(tiny_base: LoadedBase, tmp_path: Path, teacher: str):
    """On the training dialogues, with prompts that hardly move: from a choice at random to less than half of its regret."""
    torch.manual_seed(0)
    model = tiny_spt(
        tiny_base, retriever=Retriever("linear", dim=32, reading=Reading(rank=12), keys=3, activation="none")
    )
    small = talks(8, turns=2)
    rates = {"prompt_lr": 1e-9, "retriever_lr": 0.05}
    run = small_trainer(model, tmp_path, train=small, losses=LLM_ONLY | TEACHERS[teacher], max_steps=40, **rates)
    before = validate(model, small)
    run.train()
    after = validate(model, small)
    assert after["specialisation"] == pytest.approx(before["specialisation"]), "the regret of a random choice"
    assert before["regret"] > 0.8 * before["specialisation"]
    assert after["regret"] < 0.4 * after["specialisation"]


@pytest.mark.parametrize(
    ("losses", "proposed"), [({}, True), *((change, False) for change in OBJECTIVES.values() if "objective" in change)]
)
def test_no_warning_proposes_what_the_recipe_refuses(
    tiny_base: LoadedBase, tmp_path: Path, losses: dict[str, Any], proposed: bool
):
    run = small_trainer(tiny_base, tmp_path, losses=losses)
    run.monitor.add(torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1, 3))
    warnings = run.monitor.warnings(run.monitor.figures(), progress=1)
    assert ["losses.update=responsibility" in warning for warning in warnings] == [proposed] * 2


# What is written.

TRAIN_KEYS = {
    *(
        "kind",
        "step",
        "epoch",
        "learning_rate",
        "total",
        "llm",
        "selection",
        "contrastive",
        "fusion",
        "balance",
        "tokens",
        "examples",
    ),
    *("usage", "usage_entropy", "agreement", "regret", "specialisation", "margin", "prompt_norm_ratio", "warnings"),
}
VALIDATION_KEYS = {
    *("kind", "step", "epoch", "perplexity", "fused_perplexity", "oracle_perplexity", "random_perplexity"),
    *("best_prompt_perplexity", "prompt_perplexity", "usage", "usage_entropy", "agreement", "regret", "specialisation"),
    *("margin", "prompt_similarity", "parted"),
}


def test_metrics_have_these_keys_and_numbers(records: list[dict[str, Any]]):
    assert {record["kind"] for record in records} == {"train", "validation"}
    for record in records:
        assert record.keys() == (TRAIN_KEYS if record["kind"] == "train" else VALIDATION_KEYS)
        assert len(record["usage"]) == 3
        assert sum(record["usage"]) == pytest.approx(1)
        assert 0 <= record["usage_entropy"] <= 1
        assert 0 <= record["agreement"] <= 1
        assert record["regret"] >= 0
        assert record["specialisation"] >= 0
        assert 0 < record["epoch"] <= 3
        json.dumps(record, allow_nan=False)


def test_each_kind_has_one_record_a_step_up_to_the_last(records: list[dict[str, Any]], finished: SPTTrainer):
    for kind, every in (("train", 2), ("validation", 5)):
        steps = [record["step"] for record in records if record["kind"] == kind]
        last = finished.state.max_steps
        assert steps == sorted({*range(every, last + 1, every), last})


def test_total_is_the_sum_of_the_weighted_parts(records: list[dict[str, Any]]):
    settings = LossesSection()
    for r in (record for record in records if record["kind"] == "train"):
        weighted = settings.selection.weight * r["selection"] + settings.contrastive.weight * r["contrastive"]
        assert r["total"] == pytest.approx(r["llm"] + weighted + settings.fusion.weight * r["fusion"], rel=1e-5)


def test_every_turn_is_counted_once_an_epoch(records: list[dict[str, Any]], finished: SPTTrainer):
    turns = sum(len(sequence.spans) for sequence in finished.sequences)
    assert sum(record["examples"] for record in records if record["kind"] == "train") == 3 * turns


def test_perplexities_are_ordered(records: list[dict[str, Any]]):
    """Best prompt of each turn <= best single prompt <= a random one; the average of the distributions <= a random prompt."""
    for r in (record for record in records if record["kind"] == "validation"):
        assert r["oracle_perplexity"] <= r["best_prompt_perplexity"] == min(r["prompt_perplexity"])
        assert r["best_prompt_perplexity"] <= r["random_perplexity"]
        assert r["fused_perplexity"] <= r["random_perplexity"]
        assert r["oracle_perplexity"] <= r["perplexity"]


def test_tensorboard_has_losses_and_validation(finished: SPTTrainer):
    events = EventAccumulator(str(finished.folder / "tensorboard")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/llm", "train/fusion", "train/usage_entropy", "eval/perplexity", "eval/oracle_perplexity"} <= tags
    assert [event.step for event in events.Scalars("eval/perplexity")][-1] == finished.state.max_steps


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def test_there_is_no_pickle_in_the_run_folder(finished: SPTTrainer):
    """Neither by name nor by content: no pickle, and no zip, which is what torch.save writes."""
    suffixes = {path.suffix for path in files(finished.folder) if not path.name.startswith("events.out.tfevents.")}
    assert suffixes <= {".json", ".jsonl", ".safetensors", ".md"}
    assert not any(
        path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
        for path in files(finished.folder)
    )


def test_nothing_is_written_before_training(tiny_base: LoadedBase, tmp_path: Path):
    small_trainer(tiny_base, tmp_path, report_to=("tensorboard",))
    assert not list(files(tmp_path))


def test_a_folder_with_checkpoints_is_not_overwritten(tiny_base: LoadedBase, tmp_path: Path):
    small_trainer(tiny_base, tmp_path, max_steps=3).train()
    before = {path: path.read_bytes() for path in files(tmp_path)}
    with pytest.raises(StorageError, match="holds checkpoints of an earlier run; resume it, or choose another folder"):
        small_trainer(tiny_base, tmp_path, max_steps=3).train()
    assert before == {path: path.read_bytes() for path in files(tmp_path)}


# Which adapter is kept.


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Makes validations give these perplexities, one after another."""

    def set_script(perplexities: list[float]) -> None:
        coming = iter(perplexities)
        figures = (
            "fused_perplexity",
            "oracle_perplexity",
            "random_perplexity",
            "best_prompt_perplexity",
            "usage_entropy",
        )
        monkeypatch.setattr(
            trainer, "validate", lambda *_: {"perplexity": next(coming), **{name: 1.0 + len(name) for name in figures}}
        )

    return set_script


def same_weights(first: Path, second: Path) -> bool:
    return (first / "adapter_model.safetensors").read_bytes() == (second / "adapter_model.safetensors").read_bytes()


def validated(base: LoadedBase, folder: Path, **training: Any) -> SPTTrainer:
    return small_trainer(
        base, folder, options={"validation": talks(2, seed=1)}, **{"checkpoint_every": 1, "max_steps": 5, **training}
    )


def test_the_best_adapter_is_kept_not_the_last(tiny_base: LoadedBase, tmp_path: Path, script: Callable[..., None]):
    script([9.0, 7.0, 8.0, 8.5, 9.0])
    run = validated(tiny_base, tmp_path)
    run.train()
    best, last = (tmp_path / "checkpoints" / f"checkpoint-{step}" / "adapter" for step in (2, 5))
    assert same_weights(tmp_path / "adapter", best)
    assert not same_weights(tmp_path / "adapter", last)
    torch.testing.assert_close(run.spt.prompts.embeddings.detach(), load_adapter(best).tensors["prompts"])


@pytest.mark.parametrize(("keep", "left"), [(1, {2, 5}), (2, {2, 4, 5}), (9, {1, 2, 3, 4, 5})])
def test_the_newest_checkpoints_stay_beside_the_best(
    tiny_base: LoadedBase, tmp_path: Path, script: Callable[..., None], keep: int, left: set[int]
):
    script([9.0, 7.0, 8.0, 8.5, 9.0])
    validated(tiny_base, tmp_path, keep_checkpoints=keep).train()
    assert steps_of(tmp_path) == left


def test_the_figure_that_chooses_can_be_another(tiny_base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    coming = iter([(1.0, 9.0), (2.0, 8.0), (3.0, 8.5)])

    def figures(*_: Any) -> dict[str, float]:
        perplexity, fused = next(coming)
        return {"perplexity": perplexity, "fused_perplexity": fused}

    monkeypatch.setattr(trainer, "validate", figures)
    validated(tiny_base, tmp_path, max_steps=3, metric="fused_perplexity").train()
    assert same_weights(tmp_path / "adapter", tmp_path / "checkpoints" / "checkpoint-2" / "adapter")


def test_early_stopping(tiny_base: LoadedBase, tmp_path: Path, script: Callable[..., None]):
    script([9.0, 7.0, 8.0, 8.5])
    assert validated(tiny_base, tmp_path, early_stopping=2).train().global_step == 4
    assert same_weights(tmp_path / "adapter", tmp_path / "checkpoints" / "checkpoint-2" / "adapter")
    again = validated(tiny_base, tmp_path, early_stopping=2)
    assert again.train(resume=True).global_step == 4, "a run that stopped early has ended"
    assert same_weights(tmp_path / "adapter", tmp_path / "checkpoints" / "checkpoint-2" / "adapter")


def test_without_validation_the_last_adapter_is_kept(tiny_base: LoadedBase, tmp_path: Path):
    small_trainer(tiny_base, tmp_path, max_steps=4).train()
    assert same_weights(tmp_path / "adapter", tmp_path / "checkpoints" / "checkpoint-4" / "adapter")
    assert steps_of(tmp_path) == {3, 4}


def test_the_kept_adapter_loads_and_replies(finished: SPTTrainer, tiny_base: LoadedBase):
    model = SPTModel.from_pretrained(finished.folder / "adapter", base=tiny_base)
    context = talks(1, seed=5)[0].context(0)
    torch.testing.assert_close(model.scores([context]), finished.spt.scores([context]))
    assert len(model.generate([context])) == 1


def test_the_kept_adapter_says_who_speaks_as_the_model_did(tiny_base: LoadedBase, tmp_path: Path):
    """A recipe's model knows it from the start; from Python it is told, as docs/training.md says."""
    model = tiny_spt(tiny_base)
    model.speakers = Speakers("gated", gate_temperature=0.5)
    small_trainer(model, tmp_path, losses={"objective": "mixture", "gate_temperature": 0.5}, max_steps=1).train()
    loaded = SPTModel.from_pretrained(tmp_path / "adapter", base=tiny_base)
    assert loaded.speakers == Speakers("gated", gate_temperature=0.5)


# What cannot be trained.


def test_early_stopping_needs_validation(tiny_base: LoadedBase, tmp_path: Path):
    with pytest.raises(RecipeError, match=r"training\.early_stopping: needs validation dialogues"):
        small_trainer(tiny_base, tmp_path, early_stopping=1)


def test_a_tracker_that_is_not_installed(tiny_base: LoadedBase, tmp_path: Path):
    with pytest.raises(RecipeError, match=r"training\.report_to: nosuchthing"):
        small_trainer(tiny_base, tmp_path / "run", report_to=("nosuchthing",))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", sorted(TRAIN_KEYS | VALIDATION_KEYS))
def test_every_key_is_explained_in_the_documentation(key: str):
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"`{key}`" in text or f'`"{key}": ' in text
