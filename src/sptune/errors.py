"""What can go wrong, named after the user's problem. One table maps each to an exit code and an HTTP status."""

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
    """A file or folder that cannot be written: full disk, no permission, or already in use."""


# error -> (exit code of the command line, status code of the server)
CODES: dict[type[SptError], tuple[int, int]] = {
    SptError: (1, 500),
    UsageError: (2, 400),
    RecipeError: (3, 400),
    DataError: (4, 400),
    ModelError: (5, 503),
    AdapterError: (6, 404),
    TrainingError: (7, 500),
    StorageError: (8, 507),
}


def exit_code(error: SptError) -> int:
    """Exit code of the command line for `error`: that of its class, or of the nearest parent in `CODES`."""
    return next(CODES[kind][0] for kind in type(error).__mro__ if kind in CODES)


def http_status(error: SptError) -> int:
    """HTTP status of the server for `error`: that of its class, or of the nearest parent in `CODES`."""
    return next(CODES[kind][1] for kind in type(error).__mro__ if kind in CODES)
