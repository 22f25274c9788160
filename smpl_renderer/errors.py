"""The exception for errors that a user can correct."""


class InputError(ValueError):
    """A file, argument or option given by the user cannot be used.

    The message is one line that names the file or argument, what is wrong with it and a remedy. Entry points print it
    without a traceback and exit with status 2.
    """
