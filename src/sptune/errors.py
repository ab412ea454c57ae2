"""What can go wrong, named after the user's problem, and the exit code of each. What clients of the server are told: `server/errors.py`."""

from __future__ import annotations


class SptError(Exception):
    """A problem the user can fix. The message names the option or file:line, the bad value and the fix."""


class UsageError(SptError):
    """A command line or a call that asks for something impossible."""


class RecipeError(SptError):
    """A recipe with unknown keys, wrong values or a combination that cannot work."""


class DataError(SptError):
    """A dialogue file that cannot be read, or that holds problems."""


class ModelError(SptError):
    """A base model that cannot be found, loaded or driven by input embeddings."""


class AdapterError(SptError):
    """An adapter folder that is missing, damaged, hostile or made for another base model."""


class TrainingError(SptError):
    """Training that had to stop, for instance on a loss that is not finite."""


class StorageError(SptError):
    """A file or folder that cannot be written or looked at: full disk, no permission, a path too long, or already in use."""


EXIT_CODES: dict[type[SptError], int] = {
    SptError: 1,
    UsageError: 2,
    RecipeError: 3,
    DataError: 4,
    ModelError: 5,
    AdapterError: 6,
    TrainingError: 7,
    StorageError: 8,
}


def exit_code(error: SptError) -> int:
    """Exit code of the command line for `error`: that of its class, or of the nearest parent in `EXIT_CODES`."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)
