"""Small networks of every kind that `shrink` must follow, and the inputs that they take."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y)


class ResNet(nn.Module):
    """As ResNet-18, smaller."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        self.layer1 = ResidualBlock(width, width)
        self.layer2 = nn.Sequential(ResidualBlock(width, 2 * width, 2), ResidualBlock(2 * width, 2 * width))
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 3 * inputs
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        InvertedResidual(8, 8, 1),
        InvertedResidual(8, 12, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


class LeNet(nn.Module):
    def __init__(self, *, fixed: bool = False) -> None:
        super().__init__()
        self.fixed = fixed
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(64, 20)
        self.fc2 = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = x.view(-1, 64) if self.fixed else x.flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


class UNet(nn.Module):
    """Concatenates as DenseNet and U-Net do, goes down and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(14)
        self.c = nn.Conv2d(14, 4, 3, 2, padding=1)
        self.up = nn.ConvTranspose2d(4, 6, 2, 2)
        self.out = nn.Conv2d(20, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.a(x))
        both = self.bn(torch.cat([a, torch.relu(self.b(a))], dim=1))
        up = self.up(torch.relu(self.c(both)))
        up = up + F.interpolate(F.avg_pool2d(up, 2), scale_factor=2)
        return self.out(torch.cat([up, both], dim=1))


class Encoder(nn.Module):
    """A transformer encoder with embeddings of tokens and positions, and a class token."""

    def __init__(self, *, batch_first: bool = True, norm_first: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 16)
        self.positions = nn.Parameter(torch.randn(1, 6, 16))
        self.cls = nn.Parameter(torch.randn(1, 1, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.positions[:, : x.shape[1]]
        h = torch.cat([self.cls.expand(len(x), -1, -1), h], dim=1)
        return self.head(self.encoder(h)[:, 0])


class PackedAttention(nn.Module):
    """One matrix for queries, keys and values, as vision transformers have it, with a norm of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)
        self.num_heads, self.head_dim = 4, 4
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (self.norm(q) @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.proj((scores @ v).transpose(1, 2).reshape(b, n, -1))


class GroupedQueries(nn.Module):
    """Attention in which two heads of queries share one of keys and values, with rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 8)
        self.o = nn.Linear(16, 16)
        self.register_buffer("frequencies", torch.tensor([1.0, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        angles = torch.arange(n)[:, None] * self.frequencies[None]
        angles = torch.cat([angles, angles], dim=-1)

        def rotated(h: Tensor) -> Tensor:
            half = torch.cat([-h[..., 2:], h[..., :2]], dim=-1)
            return h * angles.cos() + half * angles.sin()

        q, k, v = (layer(x).view(b, n, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = (
            part[:, :, None].expand(-1, -1, 2, -1, -1).reshape(b, 2 * part.shape[1], n, 4) for part in (rotated(k), v)
        )
        return self.o(F.scaled_dot_product_attention(rotated(q), k, v).transpose(1, 2).reshape(b, n, -1))


class ViT(nn.Module):
    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = attention()
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(x.mean(1))


class ShuffleNet(nn.Module):
    """Grouped convolutions, a group norm, and channels that are shuffled between groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 1)
        self.b = nn.Conv2d(16, 24, 3, 1, 1, groups=4)
        self.norm = nn.GroupNorm(4, 24)
        self.c = nn.Conv2d(24, 12, 1, groups=2)
        self.up = nn.ConvTranspose2d(12, 8, 2, 2, groups=2)
        self.out = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.b(self.a(x))))
        b, c, h, w = x.shape
        x = x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.out(self.up(self.c(x)))


class Interleaved(nn.Module):
    """Channels that change places, between convolutions that would let each go alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return self.b(torch.tanh(self.a(x)).view(b, 4, -1, h, w).transpose(1, 2).reshape(b, -1, h, w))


class Gated(nn.Module):
    """Halves of one matrix that gate one another, in the three ways in which code says that."""

    def __init__(self) -> None:
        super().__init__()
        self.up1, self.down1 = nn.Linear(6, 16), nn.Linear(8, 6)
        self.up2, self.down2 = nn.Linear(6, 12), nn.Linear(6, 6)
        self.up3, self.down3 = nn.Linear(6, 20), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.up1(x).chunk(2, dim=-1)
        x = x + self.down1(F.silu(a) * b)
        x = x + self.down2(F.glu(self.up2(x)))
        h = self.up3(x)
        half = h.shape[-1] // 2
        return x + self.down3(h[..., :half] * torch.sigmoid(h[..., half:]))


class Squeezed(nn.Module):
    """Squeeze-and-excitation, instance norm, and a shuffle of channels into pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.InstanceNorm2d(16, affine=True)
        self.reduce, self.widen = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.shuffle = nn.PixelShuffle(2)
        self.activation = nn.PReLU(4)
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        y = y * torch.sigmoid(self.widen(torch.relu(self.reduce(y.mean((2, 3), keepdim=True)))))
        return self.out(self.activation(self.shuffle(y)))


class Centred(nn.Module):
    """Norms that are written out: of the mean, of the root mean square, of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(5, 12), nn.Linear(12, 10), nn.Linear(10, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = self.b(h - h.mean(-1, keepdim=True))
        h = self.c(h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5))
        return self.d(h.softmax(-1) / (1 + h.abs().sum(-1, keepdim=True)))


def norms_without_parameters() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 12), nn.LayerNorm(12, elementwise_affine=False), nn.Linear(12, 8), nn.RMSNorm(8), nn.Linear(8, 2)
    )


def convolutions_without_parameters_in_norms() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 8, 3),
        nn.InstanceNorm1d(8),
        nn.Conv1d(8, 6, 3),
        nn.BatchNorm1d(6, affine=False),
        nn.Conv1d(6, 2, 1),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)), (4, 6)),
    "lenet": (LeNet, (2, 1, 20, 20)),
    "resnet": (ResNet, (2, 3, 12, 12)),
    "mobilenet": (mobilenet, (2, 3, 12, 12)),
    "unet": (UNet, (2, 3, 8, 8)),
    "shufflenet": (ShuffleNet, (2, 3, 4, 4)),
    "interleaved": (Interleaved, (2, 3, 4, 4)),
    "gated": (Gated, (2, 4, 6)),
    "squeezed": (Squeezed, (2, 3, 6, 6)),
    "norms": (norms_without_parameters, (3, 5)),
    "centred": (Centred, (3, 5)),
    "conv_norms": (convolutions_without_parameters_in_norms, (3, 2, 12)),
    "vit": (lambda: ViT(PackedAttention), (2, 3, 8, 8)),
    "grouped_queries": (lambda: ViT(GroupedQueries), (2, 3, 8, 8)),
}
"""Networks by name, with the shape of an input."""


def build(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network of `NETWORKS`, no two channels of which are alike, and an input."""
    make, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model = make()
    lively(model)
    return model, torch.randn(shape)


def lively(model: nn.Module) -> None:
    """Norms that do something: fresh ones multiply by one and add nothing."""
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if type(module).__name__.endswith(("Norm", "Norm1d", "Norm2d")) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                nn.init.normal_(module.bias)
