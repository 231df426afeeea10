"""JSON from anywhere: whatever is wrong with it is a `ValueError`, and what comes out can be written again."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse_json"]


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Args:
        text: one JSON value.

    Raises:
        ValueError: for no JSON, for what is nested too deep, and for half a surrogate pair, which no file can hold.
    """
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("ascii", "backslashreplace").decode()
        raise ValueError(f"{half} is half a character") from None
    return value
