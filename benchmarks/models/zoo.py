"""The models that are measured, with random weights: only their shapes matter for time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        return torch.relu(self.body(x) + self.down(x))


def resnet50() -> nn.Module:
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
        batch, tokens, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)

        mixed = nn.functional.scaled_dot_product_attention(
            split(self.query(x)), split(self.key(x)), split(self.value(x))
        )
        x = self.norms[0](x + self.output(mixed.transpose(1, 2).reshape(batch, tokens, width)))
        return self.norms[1](x + self.down(nn.functional.gelu(self.up(x))))


def bert() -> nn.Module:
    return nn.Sequential(*[EncoderLayer() for _ in range(4)])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1024))


class Gru(nn.Module):
    """Two layers of 512; a call is one step of a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(512, 512, num_layers=2, batch_first=True)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, after = self.gru(x, state)
        return y, after


MODELS = {
    "resnet50": (resnet50, (1, 3, 224, 224)),
    "resnet50, 16 images": (resnet50, (16, 3, 224, 224)),
    "mobilenet": (mobilenet, (1, 3, 224, 224)),
    "bert, 4 layers, 128 tokens": (bert, (1, 128, 768)),
    "mlp, 1 sample": (mlp, (1, 1024)),
    "mlp, 64 samples": (mlp, (64, 1024)),
    "gru, 1 step": (Gru, (1, 1, 512)),
}


def build(name: str, sparsity: float, masks: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A model in eval mode whose products have that share of zeros (depthwise convolutions are left alone).

    ``"random"`` masks are uniform; ``"trained"`` ones come from a magnitude threshold over all weights of rows that
    were scaled at random, so that rows and layers keep very different numbers of weights, as they do after training.
    """
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make()
    x = torch.randn(shape)
    inputs: tuple[Tensor, ...] = (x, torch.zeros(2, 1, 512)) if name.startswith("gru") else (x,)
    weights = [
        weight
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.GRU)) and getattr(module, "groups", 1) == 1
        for weight in module.parameters(recurse=False)
        if weight.dim() > 1
    ]
    with torch.no_grad():
        if masks == "random":
            keep = [torch.rand_like(weight) >= sparsity for weight in weights]
        else:
            scores = [
                (weight / weight.std() * torch.exp(0.7 * torch.randn(weight.shape[0], *[1] * (weight.dim() - 1)))).abs()
                for weight in weights
            ]
            joined = torch.cat([score.flatten() for score in scores])
            threshold = joined.kthvalue(max(1, int(sparsity * joined.numel()))).values
            keep = [score > threshold for score in scores]
        for weight, kept in zip(weights, keep, strict=True):
            # What is left grows, so that activations neither vanish nor explode.
            weight.mul_(kept).div_(kept.float().mean().clamp(min=1e-3).sqrt())
        if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
            model.train()
            for _ in range(3):
                model(x if len(x) > 1 else torch.cat([x, torch.randn(shape)]))
    return model.eval(), inputs
