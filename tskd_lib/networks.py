"""Backbones as a stem and a list of stages: ResNet, VGG and AlexNet.

A *backbone* turns an image into a feature map in steps: a *stem*, which may be empty, and *stages*.
Exits are placed after stages, so every network here is written as that list, whatever its family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEMS = ("cifar", "imagenet")
RESNETS = {
    # depth: (block, blocks per stage); three stages as in He et al. 2016, section 4.2
    8: ("basic", (1, 1, 1)),
    14: ("basic", (2, 2, 2)),
    20: ("basic", (3, 3, 3)),
    32: ("basic", (5, 5, 5)),
    44: ("basic", (7, 7, 7)),
    56: ("basic", (9, 9, 9)),
    110: ("basic", (18, 18, 18)),
    # four stages as in He et al. 2016, table 1
    10: ("basic", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
VGGS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class Backbone(nn.Module):
    """A network that classifies images `[B, C, H, W]`, kept as the parts that exits need.

    Args:
        stem: first layers, image to feature map.
        stages: modules run one after the other, feature map to feature map.
        pool: last feature map to the feature vectors `[B, D]`.
        classifier: the linear layer `[B, D]` to logits `[B, classes]`.
        input_shape: (channels, height, width) of one image.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        pool: nn.Module,
        classifier: nn.Linear,
        input_shape: tuple[int, int, int],
    ):
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.pool = pool
        self.classifier = classifier
        self.input_shape = tuple(input_shape)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, classes]` of images `[B, C, H, W]`."""
        hidden = self.stem(images)
        for stage in self.stages:
            hidden = stage(hidden)
        return self.classifier(self.pool(hidden))


class StridedPointwise(nn.Conv2d):
    """A 1 x 1 convolution with a stride, which on CPUs picks the pixels before it multiplies.

    There oneDNN's gradient of the strided kernel writes outside its memory for some batch sizes
    (AVX-512, two threads, PyTorch 2.14). Means over single pixels pick them, because the gradient
    of a slice loses the memory format, and with it a fifth of a small network's speed.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C', H / stride, W / stride]`."""
        if hidden.device.type != "cpu":
            return super().forward(hidden)
        return F.conv2d(F.avg_pool2d(hidden, 1, self.stride), self.weight, self.bias)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps the size at stride 1, and its batch norm."""
    layer = StridedPointwise if kernel == 1 and stride > 1 else nn.Conv2d
    return [
        layer(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class ResidualBlock(nn.Module):
    """`relu(F(x) + x)`, basic or bottleneck (He et al. 2016, figure 5).

    The stride of a bottleneck is in its 3 x 3 convolution, as in torchvision.
    """

    def __init__(self, inputs: int, width: int, stride: int = 1, kind: str = "basic"):
        super().__init__()
        if kind == "basic":
            outputs = width
            layers = [
                *conv_norm(inputs, width, 3, stride),
                nn.ReLU(inplace=True),
                *conv_norm(width, width, 3),
            ]
        else:
            outputs = 4 * width
            layers = [
                *conv_norm(inputs, width, 1),
                nn.ReLU(inplace=True),
                *conv_norm(width, width, 3, stride),
                nn.ReLU(inplace=True),
                *conv_norm(width, outputs, 1),
            ]
        self.residual = nn.Sequential(*layers)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Sequential(*conv_norm(inputs, outputs, 1, stride))
        self.outputs = outputs

    def forward(self, hidden: Tensor) -> Tensor:
        """Feature map `[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`."""
        shortcut = hidden if self.shortcut is None else self.shortcut(hidden)
        return torch.relu_(self.residual(hidden) + shortcut)


def initialise(module: nn.Module) -> None:
    """He et al. 2015 weights (fan out) for every convolution in `module`, zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _global_pool() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _resnet(depth: int, classes: int, input_shape, stem: str, width: float) -> Backbone:
    kind, blocks = RESNETS[depth]
    first = 16 if len(blocks) == 3 else 64
    widths = [max(1, round(first * width * 2**i)) for i in range(len(blocks))]
    if stem == "cifar":
        layers = [*conv_norm(input_shape[0], widths[0], 3), nn.ReLU(inplace=True)]
    else:
        layers = [*conv_norm(input_shape[0], widths[0], 7, 2), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(3, 2, 1))
    stages, channels = [], widths[0]
    for i, (count, stage_width) in enumerate(zip(blocks, widths)):
        stage = []
        for j in range(count):
            stride = 2 if i > 0 and j == 0 else 1
            stage.append(ResidualBlock(channels, stage_width, stride, kind))
            channels = stage[-1].outputs
        stages.append(nn.Sequential(*stage))
    classifier = nn.Linear(channels, classes)
    return Backbone(nn.Sequential(*layers), stages, _global_pool(), classifier, input_shape)


def _vgg(depth: int, classes: int, input_shape, stem: str, width: float) -> Backbone:
    channels, stages = input_shape[0], []
    for convolutions, stage_width in zip(VGGS[depth], (64, 128, 256, 512, 512)):
        stage: list[nn.Module] = []
        outputs = max(1, round(stage_width * width))
        for _ in range(convolutions):
            stage += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
            stage.append(nn.ReLU(inplace=True))
            channels = outputs
        stages.append(nn.Sequential(*stage, nn.MaxPool2d(2)))
    pool, features = _global_pool(), channels
    if stem == "imagenet":
        features = 4096
        pool = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(7), nn.Flatten()),
            *(nn.Linear(channels * 49, features), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(features, features), nn.ReLU(), nn.Dropout()),
        )
    return Backbone(nn.Identity(), stages, pool, nn.Linear(features, classes), input_shape)


def _alexnet(classes: int, input_shape, stem: str, width: float) -> Backbone:
    first = {"imagenet": (11, 4, 2), "cifar": (5, 1, 2)}[stem]
    kernels = [first, (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)]
    channels, stages = input_shape[0], []
    for i, (outputs, kernel) in enumerate(zip((64, 192, 384, 256, 256), kernels)):
        outputs = max(1, round(outputs * width))
        stage = [nn.Conv2d(channels, outputs, *kernel), nn.ReLU(inplace=True)]
        if i in (0, 1, 4):
            stage.append(nn.MaxPool2d(3, 2))
        stages.append(nn.Sequential(*stage))
        channels = outputs
    pool, features = _global_pool(), channels
    if stem == "imagenet":
        features = 4096
        pool = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(6), nn.Flatten()),
            *(nn.Dropout(), nn.Linear(channels * 36, features), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(features, features), nn.ReLU()),
        )
    return Backbone(nn.Identity(), stages, pool, nn.Linear(features, classes), input_shape)


BUILDERS: dict[str, Callable[[int, tuple[int, int, int], str, float], Backbone]] = {
    **{f"resnet{depth}": partial(_resnet, depth) for depth in RESNETS},
    **{f"vgg{depth}": partial(_vgg, depth) for depth in VGGS},
    "alexnet": _alexnet,
}


def names() -> list[str]:
    """Every name that `build` knows."""
    return list(BUILDERS)


def build(
    name: str,
    classes: int,
    input_shape: tuple[int, int, int] = (3, 32, 32),
    stem: str = "cifar",
    width: float = 1.0,
) -> Backbone:
    """A staged backbone with freshly drawn weights (torch's global generator).

    `BUILDERS` holds a function for each name, which is called with the other arguments in this
    order, and can be given more. Its convolutions are then drawn anew by `initialise`; norms and
    linear layers stay as they were made. To start from weights of your own, load them into the
    network that is returned.

    Args:
        name: one of `names()`, such as "resnet18" (He et al. 2016), "vgg16" (Simonyan and
            Zisserman 2015, with batch norm) or "alexnet" (Krizhevsky 2014).
        classes: number of classes, at least 1.
        input_shape: (channels, height, width) of an image.
        stem: "cifar" keeps the resolution of small images; "imagenet" is the original, with
            torchvision's layout, so that its weights fit in the same order.
        width: multiplies every channel count; resnet18 at 0.25 has 16-32-64-128 channels.

    Raises:
        ValueError: for an unknown name or stem, a size below 1, or images too small.
    """
    if name not in names():
        raise ValueError(f"unknown network {name!r}; known are {', '.join(names())}")
    if stem not in STEMS:
        raise ValueError(f"unknown stem {stem!r}; known are {', '.join(STEMS)}")
    if classes < 1 or width <= 0 or min(input_shape) < 1:
        raise ValueError(
            f"classes, width and input_shape must be positive, got {classes}, {width} and "
            f"{input_shape}"
        )
    backbone = BUILDERS[name](classes, input_shape, stem, width)
    initialise(backbone)
    try:
        feature_shapes(backbone)
    except RuntimeError as error:
        if "memory" in str(error):
            raise
        size = f"{input_shape[1]} x {input_shape[2]}"
        raise ValueError(f"images of {size} are too small for {name} with a {stem} stem") from error
    return backbone


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode again afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def feature_shapes(backbone: Backbone) -> list[tuple[int, int, int]]:
    """(channels, height, width) of the feature map after each stage, from a dry run."""
    image, shapes = next(backbone.parameters()).new_zeros(1, *backbone.input_shape), []
    with evaluating(backbone):
        hidden = backbone.stem(image)
        for stage in backbone.stages:
            hidden = stage(hidden)
            shapes.append(tuple(hidden.shape[1:]))
    return shapes
