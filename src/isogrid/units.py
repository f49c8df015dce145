"""Numbers with their units, as people read them."""

from __future__ import annotations


def size(count: float) -> str:
    """Write a number of bytes in decimal units.

    >>> size(0), size(999), size(30_412), size(4_200_000_000)
    ('0 B', '999 B', '30.4 kB', '4.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        # 999.95 would be written 1000.0
        if abs(count) < 999.95 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def counted(count: int, word: str) -> str:
    """Write a number of things.

    >>> counted(1, "thread"), counted(2000, "thread")
    ('1 thread', '2,000 threads')
    """
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def operations(count: float) -> str:
    """Write a number of floating-point operations.

    >>> operations(0), operations(950), operations(1_234_000), operations(4.2e15)
    ('0', '950', '1.23 MFLOP', '4.2 PFLOP')
    """
    if count < 1000:
        return f"{count:.0f}"
    scaled = count
    for prefix in "kMGTPE":
        scaled /= 1000
        if scaled < 999.5 or prefix == "E":
            return f"{scaled:.3g} {prefix}FLOP"
    raise AssertionError("the loop returns at its last prefix")
