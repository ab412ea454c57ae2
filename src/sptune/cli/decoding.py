"""The options of `evaluate` and `chat` that make a `Decoding`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
