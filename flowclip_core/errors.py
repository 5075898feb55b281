"""The two errors that mean «the input is wrong»; the command line prints them as one line and exits with code 2."""


class InputError(ValueError):
    """Something the user gave cannot be used. The message names it, says what was expected and what to do."""


class VideoError(InputError):
    """A video file that cannot be read. The message starts with its path."""
