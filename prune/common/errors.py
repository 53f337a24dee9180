"""The errors that a user may see: each is one clear line that names the file or option and the remedy.

Anything raised that is not one of these is a bug of ours, and the command line says so.
"""


class RegrowthError(Exception):
    """The work cannot be done; the message is one line and says what to do. Exit code 1."""

    exit_code = 1


class UsageError(RegrowthError):
    """An option or argument is wrong in itself or for this model. Exit code 2."""

    exit_code = 2


class CheckpointError(RegrowthError):
    """A model folder is missing, damaged, hostile, or of a kind that cannot be read."""


class TextError(RegrowthError):
    """A text source is missing, empty, too short, or lacks the field asked for."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, at most 200 characters; its type's name where it says nothing."""
    return _short((str(error).strip() or type(error).__name__).splitlines()[0])


def one_line(error: BaseException) -> str:
    """As `first_line`, of all lines in one: for an error whose reason stands below its heading."""
    return _short(" ".join(str(error).split()) or type(error).__name__)


def _short(line: str) -> str:
    return line if len(line) <= 200 else line[:197] + "..."
