"""The run directory: everything a run knows, each file whole or absent."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isogrid.errors import RunError
from isogrid.formats.files import write_atomically
from isogrid.names import dotted

_CHECKPOINT_MAGIC = b"isogrid checkpoint 1\n"
_CONFIG, _RESULT, _LOCK = "config.json", "result.json", ".lock"
_FILES = (
    _RESULT, "frontier.json", "frontier.csv", "report.json", "report.html", "model.onnx", "model.packed.onnx",
    "model.safetensors", "dense.safetensors", "model.keras", "dense.keras",
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
        return (self.path / _RESULT).is_file()

    @contextlib.contextmanager
    def opened(self, config: Mapping[str, Any], *, force: bool = False) -> Iterator[bool]:
        """The folder ready for the run described by `config`, and for nobody else meanwhile.

        Gives True when the same run is there and finished: then nothing is touched.  Otherwise what is there of it is
        kept, so that the run goes on, unless `force` is set: then it is removed, whatever run it is.

        Raises:
            RunError: the folder holds another run and `force` is not set, holds files that are no run's, is in use by
                another process, or cannot be written.
        """
        if not force and self._holds(config) and self.finished:
            with contextlib.suppress(OSError):  # a reader may lack the right
                self._sweep()
                (self.path / _LOCK).unlink(missing_ok=True)
            yield True
            return
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(self._alone())
                # What stays when a run is cleared was put there by its owner, and does not make it another's folder.
                same = not (force and self._clear()) and self._holds(config)
                self.checkpoints.mkdir(exist_ok=True)
                self._sweep()
            except OSError as problem:
                raise RunError(
                    f"The run directory {self.path} cannot be written ({problem.strerror}); name one that can."
                ) from problem
            if not same:
                self.write_json(_CONFIG, config)
            yield False

    def _holds(self, config: Mapping[str, Any]) -> bool:
        """Whether the folder holds the run of that configuration; False where it holds none.

        Raises:
            RunError: it holds another run, or files that are no run's.
        """
        before = self.read_json(_CONFIG, missing_ok=True)
        if before is None:
            self._refuse_strangers()
            return False
        if not _is_config(before):
            raise self._strange(_CONFIG)
        was, now = dotted(before), dotted(json.loads(json.dumps(config)))
        for key in [*now, *was]:
            if was.get(key) != now.get(key):
                raise RunError(
                    f"{self.path} holds a run with {key} = {was.get(key)!r}, and this one has {now.get(key)!r}; name "
                    "another folder, or pass --force to overwrite that run."
                )
        return True

    def _refuse_strangers(self) -> None:
        """A start that was killed before it wrote its configuration leaves nothing but these; the rest is not ours."""
        if not self.path.is_dir():
            return
        for entry in sorted(self.path.iterdir()):
            begun = entry.name in (_LOCK, self.checkpoints.name) or entry.match(f".{_CONFIG}.*.part")
            if not begun or (entry == self.checkpoints and any(entry.glob("*.ckpt"))):
                raise self._strange(entry.name)

    def _strange(self, name: str) -> RunError:
        return RunError(f"{self.path} holds files that are no run's ({name}); name a new or an empty folder.")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes out.  The system lets go of the lock when this process ends, however it ends."""
        path = self.path / _LOCK
        with path.open("ab") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    f"{self.path} is in use by another process; wait until it ends, or name another folder."
                ) from None
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _clear(self) -> bool:
        """Remove a run's own files and nothing else; whether there was a run.

        Its configuration stays until the new one takes its place: at no moment are old checkpoints without an owner.
        """
        try:
            before = self.read_json(_CONFIG, missing_ok=True)
        except RunError:
            before = None  # damaged, and so no longer anything that could be lost
        else:
            if before is None:
                return False
            if not _is_config(before):
                raise self._strange(_CONFIG)
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.path / "tensorboard", self.checkpoints):
            if folder.is_dir():
                shutil.rmtree(folder)
        return True

    def _sweep(self) -> None:
        """Remove what a killed process left: its half-written files."""
        for left in (*self.path.glob(".*.part"), *self.checkpoints.glob(".*.part")):
            left.unlink(missing_ok=True)

    def read_json(self, name: str, *, missing_ok: bool = False) -> Any:
        """The contents of a JSON file of the run, None where it may be missing and is.

        Raises:
            RunError: the file is missing or damaged.
        """
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            if missing_ok:
                return None
            raise RunError(f"{self.path} is no finished run: {name} is missing.") from None
        except OSError as problem:
            raise RunError(f"{path} cannot be read ({problem.strerror}).") from None
        except (ValueError, RecursionError):
            raise RunError(f"{path} is damaged: it is no JSON; run again with --force.") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, readable, with a stable order."""
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.path / name, text.encode() + b"\n")

    def save_checkpoint(self, name: str, payload: bytes) -> None:
        """Write a checkpoint with its own digest in front, so that damage is seen when it is read."""
        digest = hashlib.sha256(payload).hexdigest().encode() + b"\n"
        write_atomically(self.checkpoints / f"{name}.ckpt", _CHECKPOINT_MAGIC + digest + payload)

    def load_checkpoint(self, name: str) -> bytes | None:
        """What a checkpoint holds, or None where there is none.

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
        digest, payload = raw[start : start + 65], raw[start + 65 :]
        if raw[:start] != _CHECKPOINT_MAGIC or hashlib.sha256(payload).hexdigest().encode() + b"\n" != digest:
            raise RunError(
                f"The checkpoint {path} is damaged; remove that file to redo its phase, or run again with --force."
            )
        return payload

    def drop_checkpoint(self, name: str) -> None:
        """Remove a checkpoint that a finished phase has made useless."""
        (self.checkpoints / f"{name}.ckpt").unlink(missing_ok=True)


def _is_config(value: Any) -> bool:
    """Whether a ``config.json`` is a run's; many other programs call a file so."""
    return isinstance(value, dict) and "isogrid" in value
