"""The run directory: everything a run knows, each file whole or absent."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from isogrid.errors import RunError
from isogrid.formats.files import write_atomically

_CHECKPOINT_MAGIC = b"isogrid checkpoint 1\n"
_FILES = (
    "config.json", "frontier.json", "frontier.csv", "result.json", "report.json", "report.html", "model.onnx",
    "model.safetensors", "dense.safetensors",
)  # fmt: skip


class RunDirectory:
    """A folder with one run in it.

    A run that was killed at any moment goes on where it was: what is finished is found as a checkpoint, and a
    checkpoint is written whole or not at all.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: the result is the last file that is written."""
        return (self.path / "result.json").is_file()

    def open(self, config: Mapping[str, Any], *, force: bool = False) -> bool:
        """Make the folder ready for the run described by `config`.

        Returns True when a run with the same configuration is there already, to be resumed or read.

        Raises:
            RunError: the folder holds another run and `force` is not set, or holds other files, or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if force:
                self._clear()
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as problem:
            raise RunError(
                f"The run directory {self.path} cannot be made ready ({problem.strerror}); name one that can be written."
            ) from problem
        before = self.read_json("config.json", missing_ok=True)
        if before is None:
            strange = sorted(entry.name for entry in self.path.iterdir() if entry.name not in ("checkpoints", *_FILES))
            if strange and not all(name.endswith(".part") for name in strange):
                raise RunError(
                    f"{self.path} holds other files ({strange[0]}); name a new folder, or an empty one, for the run."
                )
            self.write_json("config.json", config)
            return False
        wanted = json.loads(json.dumps(config))
        for key in sorted({*before, *wanted}):
            if before.get(key) != wanted.get(key):
                raise RunError(
                    f"{self.path} holds a run with {key} = {before.get(key)!r}, and this one has {wanted.get(key)!r}; name "
                    "another folder, or pass --force to overwrite that run."
                )
        return True

    def _clear(self) -> None:
        """Remove a run's own files and nothing else."""
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        if (self.path / "tensorboard").is_dir():
            shutil.rmtree(self.path / "tensorboard")
        if self.checkpoints.is_dir():
            shutil.rmtree(self.checkpoints)
        for left in self.path.glob(".*.part"):
            left.unlink(missing_ok=True)

    def read_json(self, name: str, *, missing_ok: bool = False) -> Any:
        """The contents of a JSON file of the run, None where it may be missing and is.

        Raises:
            RunError: the file is missing or damaged.
        """
        path = self.path / name
        if missing_ok and not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.path} is no finished run: {name} is missing.") from None
        except (OSError, ValueError) as problem:
            raise RunError(f"{path} is damaged ({problem}); remove it, or run again with --force.") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, readable, with a stable order."""
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.path / name, text.encode() + b"\n")

    def save_checkpoint(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a checkpoint with its own digest in front, so that damage is seen when it is read."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        payload = buffer.getvalue()
        digest = hashlib.sha256(payload).hexdigest().encode() + b"\n"
        write_atomically(self.checkpoints / f"{name}.ckpt", _CHECKPOINT_MAGIC + digest + payload)

    def load_checkpoint(self, name: str) -> dict[str, Any] | None:
        """A checkpoint, or None where there is none.

        Raises:
            RunError: the checkpoint is damaged.
        """
        path = self.checkpoints / f"{name}.ckpt"
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise RunError(f"The checkpoint {path} cannot be read ({problem.strerror}).") from problem
        start = len(_CHECKPOINT_MAGIC)
        digest, payload = raw[start : start + 64], raw[start + 65 :]
        if raw[:start] != _CHECKPOINT_MAGIC or hashlib.sha256(payload).hexdigest().encode() != digest:
            raise RunError(
                f"The checkpoint {path} is damaged; remove that file to redo its phase, or run again with --force."
            )
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        return state

    def drop_checkpoint(self, name: str) -> None:
        """Remove a checkpoint that a finished phase has made useless."""
        (self.checkpoints / f"{name}.ckpt").unlink(missing_ok=True)
