"""Recipes: what to train, on which data, and how. YAML in, a checked `Recipe` out; all mistakes are reported together."""

from sptune.config.compare import ComparisonSettings, MethodSettings, TuningSettings
from sptune.config.compare_reading import dump_comparison, load_comparison, method_recipe, parse_comparison
from sptune.config.evaluation_section import KEPT_IN_ADAPTER, EvaluationSection, RerankSection
from sptune.config.reading import bundled_recipes, dump_recipe, find_recipe, load_recipe, parse_recipe
from sptune.config.recipe import PAPER_EXACT, Recipe
from sptune.config.sections import (
    ContrastiveLossSection,
    DataSection,
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
    "KEPT_IN_ADAPTER",
    "PAPER_EXACT",
    "ComparisonSettings",
    "ContrastiveLossSection",
    "DataSection",
    "EvaluationSection",
    "FusionLossSection",
    "LossesSection",
    "MethodSettings",
    "ModelSection",
    "PromptsSection",
    "Recipe",
    "RerankSection",
    "RetrieverSection",
    "Section",
    "SelectionLossSection",
    "TemplateSection",
    "TrainingSection",
    "TuningSettings",
    "bundled_recipes",
    "dump_comparison",
    "dump_recipe",
    "find_recipe",
    "load_comparison",
    "load_recipe",
    "method_recipe",
    "parse_comparison",
    "parse_recipe",
]
