"""For the API reference: the ``>>>`` examples of docstrings become code blocks, which Markdown takes for quotations."""

from typing import Any

import griffe


def fenced(docstring: str) -> str:
    """`docstring` with a fence around each run of lines that begins with ``>>>`` and ends with a blank line."""
    lines: list[str] = []
    inside = False
    for line in docstring.splitlines():
        if not inside and line.startswith(">>>"):
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)


class Doctests(griffe.Extension):
    """Fences the examples of every object."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object when it is loaded."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
