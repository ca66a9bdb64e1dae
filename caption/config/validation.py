"""What dataclasses of a configuration have in common: rules for their fields, and the way from plain values."""

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
    "at least 0 and below 1": lambda value: 0 <= value < 1,
}


def require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise UserError(f"{name} is {value}, but must be {rule}")


def check(config: object, section: str, rule: str, *names: str) -> None:
    """Each of the named fields must keep the rule."""
    for name in names:
        value = getattr(config, name)
        require(RULES[rule](value), f"{section}.{name}", value, rule)


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass from nested plain values, as `dataclasses.asdict` gives them.

    An unknown key is an error. A missing one takes its default, if it has one: a field that was added later must
    behave by default as the program did before it, so that older checkpoints and runs can be read.
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
