"""What users are told in one line: the errors that mean "the input is wrong", which end a command with code
2, and notices, with which it goes on."""

import sys


class InputError(ValueError):
    """Something the user gave cannot be used. The message names it, says what was expected and what to do."""


class VideoError(InputError):
    """A video file that cannot be read. The message starts with its path."""


class NotFinite(InputError):
    """A number that is infinite or not a number, where a loss, a feature, a score or a weight was computed or
    read."""


class Diverged(NotFinite):
    """A training whose loss or parts are no finite numbers any more."""


def shown(text: object) -> str:
    """The text in one line that a terminal prints as it is: every character that does not print is escaped.

    Names come from files and archives that others made. An escape sequence in one could move the cursor,
    write over what is on the screen, or set the window's title; a direction mark could show another name than
    it is.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def notice(line: str) -> None:
    """Say a line to whoever runs the command, apart from what the command prints."""
    print(f"reproduce.sh: {shown(line)}", file=sys.stderr)
