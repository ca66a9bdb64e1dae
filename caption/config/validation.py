"""Validation of configurations, and their construction from plain dicts."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from caption.errors import UserError

T = TypeVar("T")

# By the name that stands in the annotation of a field and in the message.
RULES: dict[str, Callable[[float], bool]] = {
    "positive": lambda value: value > 0,
    "at least 1": lambda value: value >= 1,
    "0 or more": lambda value: value >= 0,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in [0, 10]": lambda value: 0 <= value <= 10,
    "in [0.001, 1000]": lambda value: 0.001 <= value <= 1000,
    "a seed, in [0, 2**32)": lambda value: 0 <= value < 2**32,
}
LARGEST = 2**32  # of any number: libraries hold integers in 64 bits, and products of several must fit


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise UserError with the name, the value and the rule unless the condition holds."""
    if not condition:
        raise UserError(f"{name} is {value}, but must be {rule}")


def check(config: object, section: str = "") -> None:
    """Raise UserError for the first field whose value is not of its type and choices, is not finite or too large, or
    breaks the rule in its annotation: `Annotated[int, "at least 1"]`."""
    for name, kind in get_type_hints(type(config), include_extras=True).items():
        value, label = getattr(config, name), f"{section}.{name}".lstrip(".")
        rules = [rule for rule in getattr(kind, "__metadata__", ()) if rule in RULES]
        kind = kind.__origin__ if get_origin(kind) is Annotated else kind
        if get_origin(kind) is Literal:
            require(value in get_args(kind), label, repr(value), f"one of {', '.join(get_args(kind))}")
        elif kind in (int, float, str, bool):
            fits = type(value) is kind or (kind is float and type(value) is int)
            require(fits, label, repr(value), f"of type {kind.__name__}")
        if kind in (int, float):
            require(-LARGEST <= value <= LARGEST, label, value, "a finite number of at most 2**32")
        for rule in rules:
            require(RULES[rule](value), label, value, rule)


def require_default(config: object, section: str, name: str, reason: str) -> None:
    """Raise UserError with the reason unless the field, which has no effect here, is at its default."""
    if (value := getattr(config, name)) != getattr(type(config), name):
        raise UserError(f"{section}.{name} is {value}, but {reason}")


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """Build a dataclass from nested plain values, the inverse of `dataclasses.asdict`.

    A missing key takes the field's default, if it has one. A field that is added must therefore behave by default as
    the program did before, so that checkpoints and runs of the same format stay readable.

    Raises UserError for an unknown key, a missing one without a default, or a value that the dataclass refuses.
    """
    if not isinstance(values, dict):
        raise UserError(f"{kind.__name__} is {values!r}, but must be an object with its fields by name")
    types = get_type_hints(kind)
    if unknown := sorted(set(values) - set(types)):
        raise UserError(f"{kind.__name__} has no field {unknown[0]!r}; it has {', '.join(types)}")
    required = {name for name, value in inspect.signature(kind).parameters.items() if value.default is value.empty}
    if missing := sorted(required - set(values)):
        raise UserError(f"{kind.__name__} lacks the field {missing[0]!r}")
    sections = {name for name in values if dataclasses.is_dataclass(types[name])}
    config = kind(**values | {name: from_dict(types[name], values[name]) for name in sections})
    check(config)  # also Config itself, whose presets lack data and output
    return config
