"""What this installation and this machine are: info."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from isogrid.cli.app import app


@app.command()
def info() -> None:
    """Show versions and what this CPU offers."""
    from isogrid import _native
    from isogrid.versions import versions

    table = Table("what", "value")
    for name, value in versions().items():
        table.add_row(name, value)
    features = _native.cpu_features()
    table.add_row(
        "cpu", ", ".join(name if value is True else f"{name} {value}" for name, value in features.items() if value)
    )
    table.add_row(
        "kernels", f"{_native.current_target()} (of {', '.join(_native.targets())}; ISOGRID_TARGET forces one)"
    )
    Console().print(table)
