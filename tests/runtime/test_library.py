"""The library of operators is found, shows one function, and needs next to nothing."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from isogrid.errors import MissingDependencyError
from isogrid.runtime import library
from isogrid.runtime.library import library_path


def test_it_is_a_library_that_registers_operators() -> None:
    assert library_path().is_file()
    assert ctypes.CDLL(str(library_path())).RegisterCustomOps


def test_finding_it_needs_neither_torch_nor_onnx() -> None:
    program = (
        "import sys; from isogrid.runtime.library import library_path; library_path(); "
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'isogrid._native') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_install_without_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = ModuleSpec("isogrid._native", None, origin=str(tmp_path / "_native.so"))
    monkeypatch.setattr(library, "find_spec", lambda _: elsewhere)
    with pytest.raises(
        MissingDependencyError, match=r"there is no .*libisogrid_onnxruntime\.so; install isogrid's wheel"
    ):
        library_path()
    monkeypatch.setattr(library, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="without its native part"):
        library_path()


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_it_shows_one_function() -> None:
    shown = subprocess.run(
        ["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=True
    ).stdout.split()
    assert shown[2::3] == ["RegisterCustomOps"]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_it_needs_only_the_system_s_c_library() -> None:
    text = subprocess.run(["readelf", "-d", library_path()], capture_output=True, text=True, check=True).stdout
    needed = {line.split("[")[1].rstrip("]") for line in text.splitlines() if "(NEEDED)" in line}
    assert all(name.startswith(("libc.so", "libm.so", "ld-linux", "libpthread.so")) for name in needed)


class Runtime:
    """An ONNX Runtime that has nothing newer than version `newest` of its interface."""

    def __init__(self, newest: int) -> None:
        self.created: list[tuple[int, str]] = []
        self.asked: list[int] = []
        create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(self._create)
        table = (ctypes.c_void_p * 1)(ctypes.cast(create, ctypes.c_void_p).value)

        def get(version: int) -> int | None:
            self.asked.append(version)
            return ctypes.addressof(table) if version <= newest else None

        get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(get)
        self.text = ctypes.create_string_buffer(b"1.16.3")
        version = ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: ctypes.addressof(self.text))
        self.base = (ctypes.c_void_p * 2)(
            ctypes.cast(get_api, ctypes.c_void_p).value, ctypes.cast(version, ctypes.c_void_p).value
        )
        self.alive = (create, table, get_api, version)

    def _create(self, code: int, sentence: bytes) -> int:
        self.created.append((code, sentence.decode()))
        return 4242

    def register(self) -> int | None:
        function = ctypes.CDLL(str(library_path())).RegisterCustomOps
        function.restype = ctypes.c_void_p
        status: int | None = function(None, ctypes.byref(self.base))
        return status


def test_a_runtime_that_is_too_old_is_told() -> None:
    runtime = Runtime(newest=16)
    assert runtime.register() == 4242
    assert runtime.asked[0] == 17
    [(_, sentence)] = runtime.created
    assert sentence == "isogrid: ONNX Runtime 1.16.3 is too old, 1.17 is the oldest accepted."
