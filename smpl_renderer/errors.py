"""The one exception that means: the user can mend this."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the file or argument, what is wrong with it and what to do. Entry points print it
    without a traceback and exit with status 2.
    """
