"""Selective Prompt Tuning of any recipe, plain prompt tuning (K = 1) among them; with retrieved examples it is SPT + RAG."""

from __future__ import annotations

from pathlib import Path

from sptune.baselines.method import Build, Fit, FittedMethod
from sptune.baselines.prompting import keep_front, read_front
from sptune.model.spt import SPTModel

FOLDER = "adapter"


class Spt(FittedMethod):
    """Kind `spt`."""

    def _fit(self, fit: Fit) -> int:
        model = self.build.make_model(fit.recipe, base=self.base)
        keep_front(self.settings, model, fit)
        read_front(self.settings, model, fit.folder, base=self.base, recipe=fit.recipe)
        return train_spt(self.build, model, fit)

    def _load(self, folder: Path) -> SPTModel:
        model = SPTModel.from_pretrained(folder / FOLDER, base=self.base)
        read_front(self.settings, model, folder, base=self.base, recipe=self.recipe)
        return model


def train_spt(build: Build, model: SPTModel, fit: Fit) -> int:
    """Train `model` as `sptune train` does, with the recipe of `fit`: how many numbers were trained."""
    trained = model.trainable_parameters  # training drops a network that makes the prompts
    callbacks = [fit.progress] if fit.progress else []
    trainer = build.make_trainer(fit.recipe, model, fit.data, callbacks=callbacks)
    if fit.progress:
        fit.progress.trainer = trainer
    trainer.train(resume=fit.resume)
    return trained
