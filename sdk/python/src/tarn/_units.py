"""Durations and sizes as users write them."""

from __future__ import annotations

import math
import re
from typing import Union

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def seconds(value: Union[str, int, float], what: str) -> float:
    """Seconds of `"90s"`, `"1h30m"`, `"1 day"` or a plain number of seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        total = float(value)
    else:
        if not isinstance(value, str):
            raise TypeError(f"{what}={value!r} is no duration. Write it like '90s', '5m' or '1h30m'.")
        text = re.sub(r"\s+", "", value)
        text = re.sub(r"(?<=\d)(second|minute|hour|day|week)s?", lambda m: m[1][0], text)
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", text)
        if not parts or "".join(n + u for n, u in parts) != text:
            raise ValueError(f"{what}={value!r} is no duration. Write it like '90s', '5m' or '1h30m'.")
        total = sum(float(n) * _SECONDS[u] for n, u in parts)
    if not math.isfinite(total) or total < 0:
        raise ValueError(f"{what}={value!r} is no duration: it must be finite and not negative.")
    return total


def size(value: Union[str, int], what: str) -> str:
    """Check a size like `"2GiB"` and give it back as text."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return str(value)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip()) if isinstance(value, str) else None
    if match is None or match[2] not in _BYTES or float(match[1]) <= 0:
        raise ValueError(f"{what}={value!r} is no size. Write it like '512MiB' or '2GiB'.")
    return match[1] + match[2]
