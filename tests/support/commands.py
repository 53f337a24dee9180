"""The commands, called in this process as a user types them, and the one line in which they refuse."""

from importlib import import_module

from typer.testing import CliRunner, Result

from prune.common.programs import PROGRAMS


def run(program: str, *words: object) -> Result:
    app = import_module(f"{PROGRAMS[program]}.cli").app
    return CliRunner().invoke(app, [str(word) for word in words])


def succeed(program: str, *words: object) -> Result:
    result = run(program, *words)
    assert result.exit_code == 0, result.output
    return result


def error_line(stderr: str) -> str:
    """The one line of error that a command ends with."""
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    return lines[0]


def check_refused(result: Result, code: int, message: str) -> None:
    """Assert that a command ended with this code and one line of error that says `message`."""
    assert result.exit_code == code, result.output
    assert message in error_line(result.stderr)
