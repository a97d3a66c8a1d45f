"""Mistakes in what a user hands to isnet: pictures, masks, weights, settings."""


class InputError(ValueError):
    """The input cannot be used. The message says what we got, what we need and what to do."""
