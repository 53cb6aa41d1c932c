"""The one error that means: the user can mend this, so show no traceback."""


class UserError(ValueError):
    """A mistake in an option, a file or a data set; its text says what was expected, what came, and what to do."""
