"""Validation of configurations, and their construction from plain dicts."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from caption.errors import UserError

T = TypeVar("T")

RULES: dict[str, Callable[[float], bool]] = {
    "positive": lambda value: value > 0,
    "at least 1": lambda value: value >= 1,
    "0 or more": lambda value: value >= 0,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
}


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise UserError with the name, the value and the rule unless the condition holds."""
    if not condition:
        raise UserError(f"{name} is {value}, but must be {rule}")


def check(config: object, section: str, rule: str, *names: str) -> None:
    """Raise UserError for the first named field that breaks the rule, a key of RULES."""
    for name in names:
        value = getattr(config, name)
        require(RULES[rule](value), f"{section}.{name}", value, rule)


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """Build a dataclass from nested plain values, the inverse of `dataclasses.asdict`.

    A missing key takes the field's default, if it has one. A field that is added must therefore behave by default as
    the program did before, so that checkpoints and runs of the same format stay readable.

    Raises UserError for an unknown key, or a missing one without a default.
    """
    types = get_type_hints(kind)
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise UserError(f"{kind.__name__} has no field {unknown[0]!r}; it has {', '.join(types)}")
    required = {
        name for name, parameter in inspect.signature(kind).parameters.items() if parameter.default is parameter.empty
    }
    missing = sorted(required - set(values))
    if missing:
        raise UserError(f"{kind.__name__} lacks the field {missing[0]!r}")
    return kind(
        **{
            name: from_dict(types[name], value) if dataclasses.is_dataclass(types[name]) else value
            for name, value in values.items()
        }
    )
