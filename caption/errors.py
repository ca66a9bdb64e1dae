"""The one exception that a script shows to its user as a single line."""


class UserError(ValueError):
    """A mistake that the user can mend: the message names the value, the rule and the remedy."""
