"""The options of `evaluate` and `chat` that make a `Decoding`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sptune.model.generate import Decoding

SHORTER = {"num_beams": "--beams", "no_repeat_ngram_size": "--no-repeat-ngram"}  # the others are called as their fields


def make_decoding(**fields: Any) -> Decoding:
    """A `Decoding` of values that were given as options.

    Raises:
        UsageError: a value out of range; names the option.
    """
    from sptune.model.generate import Decoding, check_range

    for name, value in fields.items():
        check_range(name, value, option=SHORTER.get(name, f"--{name.replace('_', '-')}"))
    return Decoding(**fields)


def rerank_keys(changes: Sequence[str]) -> dict[str, Any]:
    """Keys of `evaluation.rerank` and their values, of `--rerank KEY=VALUE`.

    Raises:
        RecipeError: not of that form, an unknown key, or a value that a recipe would refuse; all of them at once.
    """
    from sptune.config.evaluation_section import RerankSection
    from sptune.config.mistakes import find_mistakes
    from sptune.config.reading import apply_override, refuse_mistakes

    raw: dict[str, Any] = {}
    faults = [fault for change in changes if (fault := apply_override(raw, change))]
    refuse_mistakes("--rerank", [*faults, *find_mistakes(raw, RerankSection)])
    return raw
