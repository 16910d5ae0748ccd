"""JSON as files of this format may hold it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from ..errors import VQError
from .refusal import COPY_AGAIN, refuse

_MAX_DEPTH = 32
_MAY_BE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_object(path: Path, what: str, text: bytes | str) -> dict[str, Any]:
    """A JSON object. Raises VQError for anything else, naming the file and ``what``."""
    value = parse_json(path, what, text)
    if not isinstance(value, dict):
        _fail(path, what, f"a JSON {type(value).__name__}", "a JSON object")
    return value


def parse_json(path: Path, what: str, text: bytes | str) -> Any:
    """JSON that can be written again as it is: every key once, finite numbers, UTF-8, not deep.

    Raises:
        VQError: anything else; names the file and ``what``.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            _fail(path, what, f"the key {_first_double(pairs)!r} twice", "every key once")
        return members

    try:
        text = text if isinstance(text, str) else text.decode()
        value = json.loads(
            text, object_pairs_hook=unique, parse_constant=_no_constant, parse_float=_finite
        )
        deep = _nested_deeper(value, _MAX_DEPTH)
        if not deep and _MAY_BE_SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except VQError:
        raise
    except RecursionError:
        deep = True
    except ValueError as error:
        _fail(path, what, f"text that is not JSON ({str(error)[:80]})", "JSON")
    if deep:
        _fail(path, what, "JSON that is nested deeper", f"at most {_MAX_DEPTH} levels")
    return value


def _nested_deeper(value: Any, levels: int) -> bool:
    inside = [value]
    for _ in range(levels + 1):
        containers = [v for v in inside if isinstance(v, (dict, list))]
        inside = [m for c in containers for m in (c.values() if isinstance(c, dict) else c)]
    return bool(inside)


def _first_double(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    raise ValueError("every name is unique")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is beyond double precision")
    return number


def _fail(path: Path, what: str, found: str, expected: str) -> NoReturn:
    refuse(path, what, found, expected, COPY_AGAIN)
