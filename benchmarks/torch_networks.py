"""Three of the networks in plain PyTorch, for `peer.py`: the same layers and parameters as aujax's, and random weights.

Images are (batch, 3, height, width); logits (batch, classes).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """A residual block: convolutions, each followed by BatchNorm, and a shortcut, convolved where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int, convolutions: list[nn.Conv2d]):
        super().__init__()
        layers = []
        for convolution in convolutions:
            layers += [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's output."""
        return functional.relu(self.layers(x) + self.shortcut(x), inplace=True)


def basic(inputs: int, width: int, stride: int) -> Residual:
    first = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
    return Residual(inputs, width, stride, [first, nn.Conv2d(width, width, 3, 1, 1, bias=False)])


def bottleneck(inputs: int, width: int, stride: int) -> Residual:
    first = nn.Conv2d(inputs, width, 1, bias=False)
    second = nn.Conv2d(width, width, 3, stride, 1, bias=False)
    return Residual(inputs, 4 * width, stride, [first, second, nn.Conv2d(width, 4 * width, 1, bias=False)])


def resnet(block, sizes: tuple[int, ...], width: int, classes: int) -> nn.Module:
    """Returns a residual network with maps of an eighth of the image, and a linear head."""
    layers = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = width
    for stage, (size, first_stride) in enumerate(zip(sizes, (1, 2, 1, 1), strict=True)):
        for index in range(size):
            layers.append(block(channels, width * 2**stage, first_stride if index == 0 else 1))
            channels = width * 2**stage * (4 if block is bottleneck else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class TransformerBlock(nn.Module):
    """Self-attention and a two-layer MLP, each after a LayerNorm and added to its input."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels, 1e-6), nn.LayerNorm(channels, 1e-6)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's output."""
        batch, tokens, channels = x.shape
        packed = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*packed)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, channels))
        return x + self.mlp(self.norm2(x))


class TokenTransformer(nn.Module):
    """A vision transformer whose patch tokens are convolved to one map per class, and averaged (TS-CAM)."""

    def __init__(self, size: int, channels: int, depth: int, heads: int, classes: int):
        super().__init__()
        self.grid = size // 16
        self.embed = nn.Conv2d(3, channels, 16, 16)
        self.class_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.position = nn.Parameter(torch.randn(1, self.grid**2 + 1, channels) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(channels, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.head = nn.Conv2d(channels, classes, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the logits."""
        patches = self.embed(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], 1) + self.position
        tokens = self.norm(self.blocks(x))[:, 1:].transpose(1, 2)
        return self.head(tokens.unflatten(2, (self.grid, self.grid))).mean((2, 3))


def network(backbone: str, size: int, classes: int) -> nn.Module:
    """Returns the network of a row of aujax's `BACKBONES`, with its head, for images of `size` pixels a side."""
    return {
        "resnet_tiny": lambda: resnet(basic, (1, 1, 1, 1), 16, classes),
        "resnet50": lambda: resnet(bottleneck, (3, 4, 6, 3), 64, classes),
        "vit_tiny": lambda: TokenTransformer(size, 48, 3, 3, classes),
        "deit_small": lambda: TokenTransformer(size, 384, 12, 6, classes),
    }[backbone]()
