"""Exit branches, and the multi-exit network: any staged backbone with several exits.

An *exit* is a place in the network where it can answer. Its *exit branch* brings the feature
map found there down to a feature vector of the deepest exit's width, and a linear classifier
turns that into logits. The tensors of all exits are stacked, exits first: `[K, B, ...]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .networks import (
    Backbone,
    ResidualBlock,
    build,
    conv_norm,
    evaluating,
    feature_shapes,
    initialise,
)

STRENGTHS = ("separable", "byot", "residual")


class ExitOutputs(NamedTuple):
    """What a multi-exit network returns.

    Attributes:
        logits: `[K, B, C]`, exits from shallow to deep.
        features: `[K, B, D]`, each exit's vector before its linear classifier.
    """

    logits: Tensor
    features: Tensor


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution in single precision on CPUs.

    With a stride, its bf16 gradient is 20 to 50 times slower there (oneDNN has no fast kernel).
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C, H / stride, W / stride]`."""
        if hidden.device.type != "cpu":
            return super().forward(hidden)
        with torch.autocast("cpu", enabled=False):
            return super().forward(hidden.to(self.weight.dtype))


def separable(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """A depthwise-separable convolution (Howard et al. 2017) with batch norm and ReLU."""
    depthwise = StridedDepthwise if stride > 1 else nn.Conv2d
    return [
        depthwise(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        *conv_norm(inputs, outputs, 1),
        nn.ReLU(inplace=True),
    ]


def exit_branch(inputs: int, outputs: int, halvings: int, strength: str = "byot") -> nn.Sequential:
    """Feature map `[B, inputs, H, W]` to feature vector `[B, outputs]`.

    The map is halved as often as the backbone still would, with channels growing to
    `outputs`; then it is averaged over space. At equal resolution one block remains.

    Args:
        inputs: channels of the feature map.
        outputs: length of the feature vector, D.
        halvings: how often the resolution is halved.
        strength: what does one halving. "separable": one separable convolution. "byot": two, as in
            later code of the authors of Zhang et al. 2019. "residual": a residual block.

    Raises:
        ValueError: for an unknown strength.
    """
    _check_strength(strength)
    steps = max(1, halvings)
    channels = [round(inputs * (outputs / inputs) ** (i / steps)) for i in range(steps + 1)]
    stride = 2 if halvings else 1
    layers: list[nn.Module] = []
    for narrow, wide in itertools.pairwise(channels):
        if strength == "separable":
            layers += separable(narrow, wide, stride)
        elif strength == "byot":
            layers += [*separable(narrow, narrow, stride), *separable(narrow, wide, 1)]
        else:
            layers.append(ResidualBlock(narrow, wide, stride))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _check_strength(strength: str) -> None:
    if strength not in STRENGTHS:
        raise ValueError(f"unknown branch strength {strength!r}; known are {', '.join(STRENGTHS)}")


def _halvings(before: int, after: int) -> int:
    """How often a size is halved, rounding up or down, to get from one to the other."""
    return next(n for n in itertools.count() if before >> n <= after)


class MultiExitNet(nn.Module):
    """A staged backbone with an exit after each stage.

    The exit after the last stage is the backbone's own pool and classifier, so a network with
    `exits="deepest"` is the plain backbone. Stages after the deepest exit are cut off. The
    backbone's weights are drawn before those of the branches: with one seed, a plain and a
    multi-exit student start from the same backbone.

    Args:
        backbone: from `networks.build`; it becomes part of this network.
        exits: "all", "deepest", or the stages (1 is the first) that get an exit.
        strength: the branches' size, one of `STRENGTHS` (see `exit_branch`).
        detach: cut the branches off backwards: the backbone learns from its deepest exit alone.

    Attributes:
        branches: one per exit but the deepest, feature map to features `[B, D]`.
        classifiers: one per exit but the deepest, features to logits `[B, C]`.

    Raises:
        ValueError: for an unknown strength, or exits that are not ascending stages.
    """

    def __init__(
        self,
        backbone: Backbone,
        exits: str | Sequence[int] = "all",
        strength: str = "byot",
        detach: bool = False,
    ):
        super().__init__()
        depth = len(backbone.stages)
        named = {"all": tuple(range(1, depth + 1)), "deepest": (depth,)}
        stages = named.get(exits, ()) if isinstance(exits, str) else tuple(exits)
        if not stages or stages != tuple(sorted({*stages} & {*named["all"]})):
            raise ValueError(
                f"exits must be 'all', 'deepest' or ascending stages from 1 to {depth}, "
                f"got {exits!r}"
            )
        _check_strength(strength)
        self.exits = stages
        self.detach = detach
        width, classes = backbone.classifier.in_features, backbone.classifier.out_features
        shapes = feature_shapes(backbone)
        heights = [height for _, height, _ in shapes]
        halvings = [_halvings(*pair) for pair in itertools.pairwise(heights)]
        branches, classifiers = [], []
        for stage in self.exits:
            if stage < depth:
                channels, left = shapes[stage - 1][0], sum(halvings[stage - 1 :])
                branches.append(exit_branch(channels, width, left, strength))
                initialise(branches[-1])
                classifiers.append(nn.Linear(width, classes))
        if stages[-1] < depth:
            kept, end = backbone.stages[: stages[-1]], (branches.pop(), classifiers.pop())
            backbone = Backbone(backbone.stem, kept, *end, backbone.input_shape)
        self.backbone = backbone
        self.branches = nn.ModuleList(branches)
        self.classifiers = nn.ModuleList(classifiers)

    def advance(self, hidden: Tensor, exit: int) -> tuple[Tensor, Tensor, Tensor]:
        """From the feature map at the exit before (or the stem's) to this exit's answer.

        Args:
            hidden: feature map of the previous exit's stage; the stem's output for exit 0.
            exit: 0 is the shallowest.

        Returns:
            The feature map here, logits `[B, C]` and features `[B, D]`.
        """
        start = self.exits[exit - 1] if exit else 0
        for stage in self.backbone.stages[start : self.exits[exit]]:
            hidden = stage(hidden)
        branch, classifier = self._exit(exit)
        cut = self.detach and exit < len(self.exits) - 1
        features = branch(hidden.detach() if cut else hidden)
        return hidden, classifier(features), features

    def forward(self, images: Tensor, upto: int | None = None) -> ExitOutputs:
        """Logits `[K, B, C]` and features `[K, B, D]` of normalised images `[B, C, H, W]`.

        Args:
            images: float images.
            upto: run only the first `upto` exits (1 to K); the rest is not computed.

        Raises:
            ValueError: for an `upto` that is not 1 to K.
        """
        count = len(self.exits) if upto is None else upto
        if not 1 <= count <= len(self.exits):
            raise ValueError(f"upto must be 1 to {len(self.exits)}, got {upto}")
        hidden = self.backbone.stem(images)
        logits, features = [], []
        for exit in range(count):
            hidden, exit_logits, exit_features = self.advance(hidden, exit)
            logits.append(exit_logits)
            features.append(exit_features)
        return ExitOutputs(torch.stack(logits), torch.stack(features))

    def _exit(self, exit: int) -> tuple[nn.Module, nn.Module]:
        if exit == len(self.exits) - 1:
            return self.backbone.pool, self.backbone.classifier
        return self.branches[exit], self.classifiers[exit]

    def parameter_counts(self) -> list[int]:
        """Parameters of the network up to each exit, with the exits passed on the way."""
        counts, total = [], sum(p.numel() for p in self.backbone.stem.parameters())
        start = 0
        for exit, stage in enumerate(self.exits):
            parts = [*self.backbone.stages[start:stage], *self._exit(exit)]
            total += sum(p.numel() for part in parts for p in part.parameters())
            counts.append(total)
            start = stage
        return counts

    @torch.no_grad()
    def flops(self) -> list[int]:
        """FLOPs for one image up to each exit, with the exits passed on the way.

        Convolutions and matrix products, a multiply and an add as two FLOPs.
        """
        image, counts = next(self.parameters()).new_zeros(1, *self.backbone.input_shape), []
        with evaluating(self), FlopCounterMode(display=False) as counter:
            hidden = self.backbone.stem(image)
            for exit in range(len(self.exits)):
                hidden, _, _ = self.advance(hidden, exit)
                counts.append(counter.get_total_flops())
        return counts


def build_student(
    name: str,
    classes: int,
    input_shape: tuple[int, int, int],
    stem: str = "cifar",
    width: float = 1.0,
    exits: str | Sequence[int] = "all",
    strength: str = "byot",
    detach: bool = False,
    seed: int = 0,
) -> MultiExitNet:
    """A multi-exit network by name, its weights drawn from `seed` alone.

    The arguments are those of `networks.build` and `MultiExitNet`. They stay in the network's
    attribute `config`, from which a checkpoint rebuilds it.

    Raises:
        ValueError: for an unknown name, stem, exit or strength, and for images that are too small.
    """
    config = {
        "name": name,
        "classes": classes,
        "input_shape": list(input_shape),
        "stem": stem,
        "width": float(width),
        "exits": exits if isinstance(exits, str) else list(exits),
        "strength": strength,
        **({"detach": True} if detach else {}),  # records from before it was there stay as they are
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU too
        backbone = build(name, classes, tuple(input_shape), stem, width)
        network = MultiExitNet(backbone, exits, strength, detach)
    network.config = config
    return network
