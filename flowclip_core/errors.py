"""What users are told in one line: the two errors that mean «the input is wrong», which end a command with code 2, and
notices, with which it goes on."""

import sys


class InputError(ValueError):
    """Something the user gave cannot be used. The message names it, says what was expected and what to do."""


class VideoError(InputError):
    """A video file that cannot be read. The message starts with its path."""


def notice(line: str) -> None:
    """Say a line to whoever runs the command, apart from what the command prints."""
    print(f"reproduce.sh: {line}", file=sys.stderr)
