"""Recipes: what to train, on which data, and how. YAML in, a checked `Recipe` out; all mistakes are reported together."""

from sptune.config.reading import bundled_recipes, dump_recipe, find_recipe, load_recipe, parse_recipe
from sptune.config.recipe import PAPER_EXACT, Recipe
from sptune.config.sections import (
    ContrastiveLossSection,
    DataSection,
    EvaluationSection,
    FusionLossSection,
    LossesSection,
    ModelSection,
    PromptsSection,
    RetrieverSection,
    Section,
    SelectionLossSection,
    TemplateSection,
    TrainingSection,
)

__all__ = [
    "PAPER_EXACT",
    "ContrastiveLossSection",
    "DataSection",
    "EvaluationSection",
    "FusionLossSection",
    "LossesSection",
    "ModelSection",
    "PromptsSection",
    "Recipe",
    "RetrieverSection",
    "Section",
    "SelectionLossSection",
    "TemplateSection",
    "TrainingSection",
    "bundled_recipes",
    "dump_recipe",
    "find_recipe",
    "load_recipe",
    "parse_recipe",
]
