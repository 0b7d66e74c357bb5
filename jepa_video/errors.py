"""The one exception that a person sees as a sentence instead of a traceback."""


class UserError(Exception):
    """Bad input: one clear sentence that names the file or the option and what was expected.

    The command line prints the sentence and exits with code 2; a library caller gets the exception.
    """


def within(
    group: str, low: float, high: float | None = None, /, **values: float | tuple[float, ...]
) -> None:
    """Refuse options that lie out of their range.

    Args:
        group: in front of the options' names, as in `model`.
        low: the lowest value.
        high: the highest value; None for no bound.
        values: by name; of several numbers each is looked at.

    Raises:
        UserError: the first that does.
    """
    bounds = f"{low} or more" if high is None else f"from {low} to {high}"
    for name, value in values.items():
        several = value if isinstance(value, (tuple, list)) else (value,)
        if not all(low <= each and (high is None or each <= high) for each in several):
            raise UserError(f"{group}.{name} must be {bounds}, not {value}")
