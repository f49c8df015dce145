"""The models that are measured, in eval mode with random weights: only shapes and zeros matter for time.

Weights that are left are scaled, and batch norms have seen activations, so that these neither vanish nor explode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.contest import Work
from benchmarks.common.masks import random_mask


class Bottleneck(nn.Module):
    """He et al. 2016, arXiv:1512.03385, figure 5 right, with the stride in the 3x3 convolution."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.down: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.down = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        return torch.relu(self.body(x) + self.down(x))


def resnet50() -> nn.Module:
    """For images of 224 x 224: 4.1 G multiply-adds each."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def mobilenet() -> nn.Module:
    """MobileNet-v1 (Howard et al. 2017, arXiv:1704.04861, table 1)."""

    def block(channels: int, out: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]

    layers = block(3, 32, 3, 2)
    channels = 32
    shapes = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for out, stride in shapes:
        layers += [*block(channels, channels, 3, stride, channels), *block(channels, out, 1, 1)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


class EncoderLayer(nn.Module):
    """A layer of BERT-base (Devlin et al. 2018, arXiv:1810.04805), in eval mode."""

    def __init__(self, width: int = 768, heads: int = 12, inner: int = 3072) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, tokens, width]`` to the same."""
        batch, tokens, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)

        mixed = nn.functional.scaled_dot_product_attention(
            split(self.query(x)), split(self.key(x)), split(self.value(x))
        )
        x = self.norms[0](x + self.output(mixed.transpose(1, 2).reshape(batch, tokens, width)))
        return self.norms[1](x + self.down(nn.functional.gelu(self.up(x))))


def bert() -> nn.Module:
    """Four layers of the encoder."""
    return nn.Sequential(*[EncoderLayer() for _ in range(4)])


def mlp() -> nn.Module:
    """Three linear layers: 1024, 4096, 4096, 1024."""
    return nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1024))


class Gru(nn.Module):
    """Two layers of 512; a call is one step of a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(512, 512, num_layers=2, batch_first=True)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``[batch, steps, 512]`` and the state before: the states and the last of each layer."""
        y, after = self.gru(x, state)
        return y, after


@dataclass(frozen=True)
class Zoo:
    """A model, what it is called with, and how many times faster than dense it is to be at 90 %."""

    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    goal: float

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The example."""
        generator = torch.Generator().manual_seed(2)
        return tuple(torch.randn(shape, generator=generator) for shape in self.shapes)


MODELS = {
    "ResNet-50, 1 image": Zoo(resnet50, ((1, 3, 224, 224),), 3.2),
    "ResNet-50, 16 images": Zoo(resnet50, ((16, 3, 224, 224),), 5.0),
    "MobileNet-v1, 1 image": Zoo(mobilenet, ((1, 3, 224, 224),), 2.5),
    "MobileNet-v1, 16 images": Zoo(mobilenet, ((16, 3, 224, 224),), 3.5),
    "BERT encoder, 4 layers, 128 tokens": Zoo(bert, ((1, 128, 768),), 4.5),
    "MLP 1024-4096-4096-1024, 1 sample": Zoo(mlp, ((1, 1024),), 5.0),
    "MLP 1024-4096-4096-1024, 64 samples": Zoo(mlp, ((64, 1024),), 6.0),
    "GRU, 2 layers of 512, 1 step": Zoo(Gru, ((1, 1, 512), (2, 1, 512)), 5.0),
}
"""Models of the same kind follow one another, so that their weights are made once."""

MASKS = ("random", "trained")


def targets(model: nn.Module) -> list[nn.Parameter]:
    """The weights that get zeros: of linear, convolutional and recurrent layers, but not of depthwise convolutions."""
    return [
        weight
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.GRU)) and getattr(module, "groups", 1) == 1
        for weight in module.parameters(recurse=False)
        if weight.dim() > 1
    ]


@lru_cache(maxsize=16)
def build(make: Callable[[], nn.Module], sparsity: float, masks: str = "random") -> nn.Module:
    """A model in eval mode with that share of zeros.

    ``"random"`` masks have it in each weight.  ``"trained"`` ones come from one threshold for the magnitudes of all
    weights, of rows and layers that were scaled at random, so that they keep very different numbers of weights, as they
    do after training.
    """
    torch.manual_seed(0)
    model = make()
    weights = targets(model)
    with torch.no_grad():
        keep = _random(weights, sparsity) if masks == "random" else _trained(weights, sparsity)
        for weight, kept in zip(weights, keep, strict=True):
            weight.mul_(kept).div_(kept.mean().clamp(min=1e-3).sqrt())
        _settle_norms(model)
    return model.eval().requires_grad_(False)


def _random(weights: list[nn.Parameter], sparsity: float) -> list[Tensor]:
    return [random_mask(weight.shape, sparsity, seed) for seed, weight in enumerate(weights)]


def _trained(weights: list[nn.Parameter], sparsity: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    scores = []
    for weight in weights:
        rows = torch.randn(weight.shape[0], *[1] * (weight.dim() - 1), generator=generator)
        layer = torch.randn((), generator=generator)
        scores.append((weight / weight.std()).abs() * torch.exp(0.7 * rows + 0.2 * layer))
    joined = torch.cat([score.flatten() for score in scores])
    threshold = joined.kthvalue(max(1, round(sparsity * joined.numel()))).values
    return [(score > threshold).float() for score in scores]


def _settle_norms(model: nn.Module) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = None  # the plain mean of what it sees, as after a long training
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    model.train()
    for _ in range(2):
        model(torch.randn(4, 3, 96, 96))


def count(model: nn.Module, inputs: tuple[Tensor, ...]) -> Work:
    """What the nonzeros of all products need at least; loads are counted where a weight meets a single token."""
    total = {"multiply_adds": 0, "weight_bytes": 0, "gathers": 0}

    def add(weights: list[Tensor], positions: int) -> None:
        nonzeros = sum(int(torch.count_nonzero(weight)) for weight in weights)
        total["multiply_adds"] += nonzeros * positions
        # A dense weight's place need not be stored.
        total["weight_bytes"] += sum(
            min(6 * int(torch.count_nonzero(weight)), 4 * weight.numel()) for weight in weights
        )
        total["gathers"] += nonzeros if positions == 1 else 0

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, nn.GRU):
            add([w for w in module.parameters() if w.dim() == 2], output[0].numel() // module.hidden_size)
        elif isinstance(module, nn.Linear):
            add([module.weight], output.numel() // module.out_features)
        elif isinstance(module, nn.Conv2d):
            add([module.weight], output.numel() // module.out_channels)

    handles = [module.register_forward_hook(hook) for module in model.modules()]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Work(**total)
