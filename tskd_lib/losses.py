"""The terms of the objective, the objective, and the five methods as presets of it.

Every method of the book is one sum with different weights. With exits i = 1..K, logits z_i,
features f_i, teacher logits z_t, labels y, softmax p at temperature T and stop-gradient sg::

    L = sum_i      [ label_i * CE(z_i, y) + teacher * T^2 * KL(p(z_t) || p(z_i)) ]
      + sum_{i<K}  [ self_ * T^2 * KL(sg p(z_K) || p(z_i)) + feature * mean ||f_i - sg f_K||^2 ]

Here label_i is `label`, and at the deepest exit `label_deepest`. Targets never carry a gradient,
and everything is computed in at least single precision.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision to single, everything else as it is: exponentials overflow in fp16."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def label_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the labels, summed over exits and averaged over the batch.

    Args:
        logits: `[K, B, C]` of K exits, or `[B, C]` of one.
        labels: int64 `[B]`.
        smoothing: share of the label that is spread over all classes (Szegedy et al. 2016).
    """
    logits = at_least_float32(logits).reshape(-1, len(labels), logits.shape[-1])
    exits = len(logits)
    return exits * F.cross_entropy(
        logits.flatten(0, 1), labels.repeat(exits), label_smoothing=smoothing
    )


def soft_target_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """`T^2 * KL(p(targets) || p(logits))`: summed over classes and exits, batch mean.

    Hinton et al. 2015, section 2; T^2 keeps the gradient's size as T grows. No gradient
    reaches `targets`.

    Args:
        logits: `[K, B, C]` of K exits, or `[B, C]` of one.
        targets: logits `[B, C]` of whoever teaches.
        temperature: T, positive.
    """
    student = F.log_softmax(at_least_float32(logits) / temperature, dim=-1)
    teacher = F.log_softmax(at_least_float32(targets.detach()) / temperature, dim=-1)
    divergence = F.kl_div(student, teacher.expand_as(student), reduction="sum", log_target=True)
    return temperature**2 * divergence / len(targets)


def feature_loss(features: Tensor, targets: Tensor) -> Tensor:
    """`||features - targets||^2`, summed over the vector and exits, averaged over the batch.

    The hint loss of Zhang et al. 2019, equation 5. No gradient reaches `targets`.

    Args:
        features: `[K, B, D]` of K exits, or `[B, D]` of one.
        targets: `[B, D]`.
    """
    difference = at_least_float32(features) - at_least_float32(targets.detach())
    return difference.square().sum() / len(targets)


@dataclass(frozen=True)
class Objective:
    """The weights of the one objective; call it for the losses.

    Attributes:
        label: weight of the cross-entropy at the exits before the deepest.
        label_deepest: weight of the cross-entropy at the deepest exit.
        teacher: weight of the teacher's soft targets, at every exit.
        self_: weight of the deepest exit's soft targets, at the exits before it.
        feature: weight of the distance to the deepest exit's features.
        temperature: T of both soft-target terms.
        smoothing: label smoothing, from 0 to below 1.
        exits: "all", "deepest" or stage numbers: the exits a student of this method has.

    Raises:
        ValueError: for a negative weight, a temperature that is not positive, or smoothing
            that is not from 0 to below 1.
    """

    label: float = 1.0
    label_deepest: float = 1.0
    teacher: float = 0.0
    self_: float = 0.0
    feature: float = 0.0
    temperature: float = 4.0
    smoothing: float = 0.0
    exits: str | tuple[int, ...] = "all"

    def __post_init__(self):
        for field in fields(Objective)[:-1]:  # for JSON, which has no numbers of NumPy
            object.__setattr__(self, field.name, float(getattr(self, field.name)))
        for field in fields(self)[:5]:
            if not 0 <= getattr(self, field.name) < math.inf:
                raise ValueError(
                    f"the weight {field.name} must be finite and not negative, "
                    f"got {getattr(self, field.name)}"
                )
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"the temperature must be positive and finite, got {self.temperature}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing must be from 0 to below 1, got {self.smoothing}")

    def settings(self) -> dict:
        """The attributes by name, and the class where it is another than this one."""
        own = {} if type(self) is Objective else {"class": type(self).__qualname__}
        return {**own, **asdict(self)}

    def __call__(
        self,
        logits: Tensor,
        features: Tensor,
        labels: Tensor,
        teacher_logits: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms by name, and their sum as "total".

        Terms of weight zero, and those between exits where there is only one, are left out.

        Args:
            logits: `[K, B, C]`, shallow to deep.
            features: `[K, B, D]`.
            labels: int64 `[B]`.
            teacher_logits: `[B, C]`; needed where `teacher` is positive.

        Raises:
            ValueError: where the teacher's logits are missing or have another shape, or every
                term has weight zero.
        """
        terms = {}
        if self.label_deepest:
            terms["label"] = self.label_deepest * label_loss(logits[-1], labels, self.smoothing)
        if self.label and len(logits) > 1:
            shallow = self.label * label_loss(logits[:-1], labels, self.smoothing)
            terms["label"] = terms.get("label", 0) + shallow
        if self.teacher:
            if teacher_logits is None:
                raise ValueError("this objective has a teacher term: give teacher_logits")
            if teacher_logits.shape != logits.shape[1:]:
                raise ValueError(
                    f"the teacher's logits are {tuple(teacher_logits.shape)}, the student's "
                    f"{tuple(logits.shape[1:])}: both need the same images and classes"
                )
            soft = soft_target_loss(logits, teacher_logits, self.temperature)
            terms["teacher"] = self.teacher * soft
        if self.self_ and len(logits) > 1:
            terms["self"] = self.self_ * soft_target_loss(logits[:-1], logits[-1], self.temperature)
        if self.feature and len(logits) > 1:
            terms["feature"] = self.feature * feature_loss(features[:-1], features[-1])
        if not terms:
            raise ValueError("every term of the objective has weight zero: nothing to learn from")
        return {**terms, "total": sum(terms.values())}


PRESETS = {
    "baseline": Objective(exits="deepest"),
    "kd": Objective(label_deepest=0.1, teacher=0.9, exits="deepest"),
    "multi_exit": Objective(),
    "byot": Objective(label=0.7, self_=0.3, feature=0.01),
    "tskd": Objective(label=0.1, label_deepest=0.1, teacher=0.9, self_=0.3, feature=0.01),
}
