"""The one error type that users see."""


class VQError(ValueError):
    """Bad input or an impossible request.

    The message names the file, layer or field, what was found, what was expected and what to do.
    """
