"""A traced graph as a module: its code, and the tensors and layers that the code names."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn


class Body(nn.Module):
    """Runs a graph's code; takes and returns leaves.

    Unlike `torch.fx.GraphModule` it is pickled as its code, and not traced again when it is unpickled, which graphs of
    `torch.export` do not survive; and a call goes through no wrapper.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        # What is not a native layer is still the original's own: of it a copy, which asks for no gradients.
        owned: dict[Tensor, Tensor] = {}
        for name, child in graph.named_children():
            self.add_module(name, child)
        for name, parameter in graph.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in graph.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        for node in graph.graph.nodes:
            if node.op == "get_attr" and not hasattr(self, root := str(node.target).partition(".")[0]):
                value = getattr(graph, root)
                if isinstance(value, Tensor):
                    self.register_buffer(root, value)
                else:
                    setattr(self, root, value)
        for module in self.modules():
            both: list[dict[str, Any]] = [module._parameters, module._buffers]
            for tensors in both:
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = owned.setdefault(tensor, _own(tensor))
        code = graph.graph.python_code("self")
        self._source = code.src
        self._names = {name: value for name, value in code.globals.items() if not isinstance(value, ModuleType)}
        self._imports = {name: value.__name__ for name, value in code.globals.items() if isinstance(value, ModuleType)}
        self._code = self._compiled()

    def _compiled(self) -> Callable[..., Any]:
        names: dict[str, Any] = {
            "torch": torch,
            "device": torch.device,
            "inf": math.inf,
            "nan": math.nan,
            **self._names,
        }
        names.update({name: importlib.import_module(module) for name, module in self._imports.items()})
        exec(compile(self._source, "<compiled model>", "exec"), names)  # noqa: S102 - torch.fx has written it
        found: Callable[..., Any] = names["forward"]
        return found

    def forward(self, *inputs: Any) -> Any:
        """The leaves of the outputs."""
        return self._code(self, *inputs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_code": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._code = self._compiled()


def _own(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied
