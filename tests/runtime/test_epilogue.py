"""Activations by name, in the order that the native core numbers them."""

from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path

import pytest

from isogrid.errors import UsageError
from isogrid.runtime.epilogue import ACTIVATIONS, Epilogue

HEADER = Path(__file__).parents[2] / "native" / "include" / "isogrid" / "epilogue.hpp"


def test_the_names_are_those_of_the_native_core_in_its_order() -> None:
    text = HEADER.read_text(encoding="utf-8")
    body = text.partition("enum class Activation : int {")[2].partition("};")[0]
    names = re.findall(r"^\s*(\w+),", body, re.MULTILINE)
    assert tuple(names) == ACTIVATIONS
    assert f"activation_count = {len(ACTIVATIONS)};" in text


@pytest.mark.parametrize(("code", "name"), list(enumerate(ACTIVATIONS)))
def test_the_code_of_an_activation_is_its_place(code: int, name: str) -> None:
    assert Epilogue(name).code == code


def test_without_an_activation_nothing_is_done() -> None:
    assert Epilogue() == Epilogue("none")
    assert Epilogue().code == 0


@pytest.mark.parametrize(
    ("epilogue", "text"),
    [
        (Epilogue(), "none"),
        (Epilogue("gelu"), "gelu"),
        (Epilogue("clip", 0, 6), "clip(0, 6)"),
        (Epilogue("clip", -1.5, float("inf")), "clip(-1.5, inf)"),
        (Epilogue("leaky_relu", 0.01), "leaky_relu(0.01)"),
        (Epilogue("sparse_relu", 0.25), "sparse_relu(0.25)"),
        (Epilogue("sparse_tanh", 0.25), "sparse_tanh(0.25)"),
    ],
)
def test_its_text_names_it_with_the_numbers_that_matter(epilogue: Epilogue, text: str) -> None:
    assert str(epilogue) == text


def test_it_is_a_frozen_value() -> None:
    epilogue = Epilogue("clip", 0, 6)
    with pytest.raises(dataclasses.FrozenInstanceError):
        epilogue.low = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(epilogue)) == epilogue
    assert hash(epilogue) == hash(Epilogue("clip", 0, 6))
    assert epilogue != Epilogue("clip", 0, 5)


def test_an_unknown_activation_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="gelu_tanh"):
        Epilogue("gelu_tan")
