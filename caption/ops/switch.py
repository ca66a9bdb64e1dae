"""One switch for every fast backend: `CAPTION_OPS=auto` (the default) or `CAPTION_OPS=reference`."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from typing import Literal

from caption.errors import UserError

Mode = Literal["auto", "reference"]

_log = logging.getLogger("caption.ops")
_override: list[Mode] = []
_chosen: dict[str, set[str]] = {}


@functools.cache
def _environment() -> str:
    mode = os.environ.get("CAPTION_OPS", "auto")
    if mode not in ("auto", "reference"):
        raise UserError(f"the environment variable CAPTION_OPS is {mode!r}, but must be auto or reference")
    return mode


def fast() -> bool:
    """Return whether fast backends may be used. Raises UserError for an unknown value of CAPTION_OPS."""
    return (_override[-1] if _override else _environment()) == "auto"


@contextlib.contextmanager
def use(mode: Mode) -> Iterator[None]:
    """Use the fast backends ("auto") or the equations alone ("reference") until exit.

    What `prepare_keys` returned under one mode must not be read under the other.
    """
    _override.append(mode)
    try:
        yield
    finally:
        _override.pop()


def note(operation: str, backend: str) -> None:
    """Log the backend of an operation, once a process for each pair (logger `caption.ops`, level INFO)."""
    if backend not in (backends := _chosen.setdefault(operation, set())):
        backends.add(backend)
        _log.info("%s: %s", operation, backend)


def chosen() -> dict[str, list[str]]:
    """Return the backends that each operation has used so far in this process."""
    return {operation: sorted(backends) for operation, backends in _chosen.items()}
