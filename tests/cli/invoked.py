"""What became of a command that a test invoked."""

from __future__ import annotations

from typer.testing import Result

from sptune.errors import SptError


def succeeded(result: Result) -> Result:
    """The result of a command that must end well."""
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result


def failure(result: Result) -> SptError:
    """The error of a command that must tell of one."""
    assert isinstance(result.exception, SptError), result.output + repr(result.exception)
    return result.exception
