"""The one exception that a person sees as a sentence instead of a traceback."""


class UserError(Exception):
    """Bad input: one clear sentence that names the file or the option and what was expected.

    The command line prints the sentence and exits with code 2; a library caller gets the exception.
    """
