"""Numbers and their intervals as people read them: so many digits, a true minus sign, and no negative zero."""

from __future__ import annotations


def plain(value: float, digits: int, sign: str = "") -> str:
    """A number with so many digits after the point and a true minus sign; nothing that rounds to zero is negative."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", "−")


def signed(value: float, digits: int) -> str:
    """A change with its sign."""
    return plain(value, digits, "+")


def bracketed(low: float, high: float, digits: int, sign: str = "+") -> str:
    """The bounds of an interval: `[+1.00, +1.50]`."""
    return f"[{plain(low, digits, sign)}, {plain(high, digits, sign)}]"
