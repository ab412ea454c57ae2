"""Where a server's settings come from: the command line before the environment before a YAML file before the defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sptune.config.mistakes import find_mistakes
from sptune.config.reading import read_mapping, refuse_mistakes
from sptune.config.strict_yaml import read_yaml
from sptune.errors import RecipeError
from sptune.server.settings import ServerSettings

PREFIX = "SPTUNE_SERVE_"
CONFIG = f"{PREFIX}CONFIG"
ADAPTERS = "[NAME=]ADAPTER"


def read_settings(
    command_line: Mapping[str, Any],
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> ServerSettings:
    """The settings of a server.

    Args:
        command_line: settings that were given there.
        config: YAML file of settings; None: what SPTUNE_SERVE_CONFIG names, where it is set.
        environment: holds SPTUNE_SERVE_PORT and so on, whose values are YAML; None: that of the process.

    Raises:
        RecipeError: a file that cannot be read, or mistakes: all of them, each with the place it was made in.

    >>> read_settings({"base": "smollm2-135m"}, environment={"SPTUNE_SERVE_PORT": "9000"}).port
    9000
    """
    environment = os.environ if environment is None else environment
    file = config or _config_of(environment)
    raw: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if file is not None:
        if not file.exists():
            raise RecipeError(f"{'--config' if config else CONFIG}: {file}: no such file; give a YAML file of settings")
        _put(raw, origin, read_mapping(file), place=f"{file}: {{key}}")
    faults, found = _of_environment(environment)
    _put(raw, origin, found, place=f"{PREFIX}{{KEY}}")
    _put(raw, origin, command_line, place="--{option}")
    if "adapters" in command_line:
        origin["adapters"] = ADAPTERS  # these are arguments, there is no such option
    refuse_mistakes("serve", [*faults, *(_placed(fault, origin) for fault in find_mistakes(raw, ServerSettings))])
    return ServerSettings.model_validate(raw)


def _config_of(environment: Mapping[str, str]) -> Path | None:
    """The file that a variable names."""
    return Path(environment[CONFIG]) if environment.get(CONFIG) else None


def _of_environment(environment: Mapping[str, str]) -> tuple[list[str], dict[str, Any]]:
    """What is wrong, and the settings that are there."""
    faults: list[str] = []
    found: dict[str, Any] = {}
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and variable != CONFIG:
            try:
                found[variable.removeprefix(PREFIX).lower()] = read_yaml(text)
            except (ValueError, RecursionError, yaml.YAMLError) as error:
                faults.append(f"{variable}: the value is not valid YAML: {' '.join(str(error).split())}")
    return faults, found


def _put(raw: dict[str, Any], origin: dict[str, str], found: Mapping[str, Any], *, place: str) -> None:
    """Lay settings over those of lesser rank, and note where they come from."""
    for key, value in found.items():
        raw[key] = value
        origin[key] = place.format(key=key, KEY=key.upper(), option=key.replace("_", "-"))


def _placed(fault: str, origin: Mapping[str, str]) -> str:
    """A mistake with the place of its key in front: a file's key, a variable or an option."""
    key = fault.partition(":")[0].partition(".")[0]
    return origin[key] + fault.removeprefix(key) if key in origin else fault
