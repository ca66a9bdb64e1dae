"""The exception that a script shows to its user as a single line."""


class UserError(ValueError):
    """A mistake that the user can correct. The message gives the value, the rule and the remedy."""
