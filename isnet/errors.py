"""Errors in a user's input: pictures, masks, weights, settings."""


class InputError(ValueError):
    """Reports unusable input.

    The message says what we got, what we need and what to do.
    """


class NonFiniteOutput(InputError):
    """Reports a network that answered with NaN or infinity."""
