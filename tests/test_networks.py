"""Backbones against torchvision's, and what `build` refuses."""

import subprocess
import sys

import pytest
import torch
import torchvision

from tskd_lib import networks


@pytest.mark.parametrize(
    "ours, theirs",
    [("resnet18", "resnet18"), ("resnet50", "resnet50"), ("vgg16", "vgg16_bn"), ("alexnet",) * 2],
)
def test_the_same_weights_give_torchvisions_output(ours, theirs):
    torch.manual_seed(0)
    expected = getattr(torchvision.models, theirs)(num_classes=17).eval()
    for norm in expected.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):  # a fresh one changes nothing
            for values in (norm.running_var, norm.weight.data):
                values.uniform_(0.5, 1.5)
            for values in (norm.running_mean, norm.bias.data):
                values.normal_(0, 0.2)
    backbone = networks.build(ours, 17, (3, 224, 224), stem="imagenet").eval()
    assert len(backbone.state_dict()) == len(expected.state_dict())
    weights = zip(backbone.state_dict(), expected.state_dict().values())
    backbone.load_state_dict(dict(weights))
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images), expected(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name, millions",
    # He et al. 2016, table 6 (CIFAR) and torchvision's published counts (ImageNet)
    [("resnet20", 0.27), ("resnet32", 0.46), ("resnet56", 0.85), ("resnet110", 1.73)],
)
def test_published_sizes_for_cifar(name, millions):
    count = sum(p.numel() for p in networks.build(name, 10).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("name, millions", [("resnet34", 21.80), ("resnet101", 44.55)])
def test_published_sizes_for_imagenet(name, millions):
    backbone = networks.build(name, 1000, (3, 64, 64), stem="imagenet")
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("name", networks.names())
def test_every_network_trains_on_small_images(name):
    backbone = networks.build(name, 5, (1, 32, 32), width=0.125)
    logits = backbone(torch.randn(2, 1, 32, 32))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_convolutions_start_as_he_et_al_2015_say():
    modules = networks.build("resnet10", 10).modules()
    _, *wide = (layer for layer in modules if isinstance(layer, torch.nn.Conv2d))
    for layer in wide:
        fan_out = layer.out_channels * layer.kernel_size[0] ** 2
        assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_stages_and_width():
    student = networks.build("resnet18", 100, width=0.25)
    assert networks.feature_shapes(student) == [
        (16, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
        (128, 4, 4),
    ]
    assert student.training, "the dry run must not leave the network in evaluation mode"
    three = networks.build("resnet20", 10, (3, 32, 32))
    assert [shape[0] for shape in networks.feature_shapes(three)] == [16, 32, 64]


def test_the_weights_follow_the_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return networks.build("resnet8", 10).state_dict()["stem.0.weight"]

    torch.testing.assert_close(weights(1), weights(1), rtol=0, atol=0)
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "resnet19"}, "unknown network 'resnet19'; known are resnet8"),
        ({"stem": "tiny"}, "unknown stem"),
        ({"classes": 0}, "must be positive"),
        ({"width": -1}, "must be positive"),
        ({"input_shape": (3, 0, 32)}, "must be positive"),
        ({"name": "vgg11", "input_shape": (1, 16, 16)}, "16 x 16 are too small for vgg11"),
    ],
)
def test_what_cannot_be_built_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        networks.build(**{"name": "resnet8", "classes": 10, **arguments})


def test_what_is_wrong_with_a_network_of_yours_is_said_below(monkeypatch):
    def broken(classes, input_shape, stem, width):
        stages = [torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(5, 6, 3)]
        last = torch.nn.Linear(6, classes)
        return networks.Backbone(
            torch.nn.Identity(), stages, torch.nn.Identity(), last, input_shape
        )

    monkeypatch.setitem(networks.BUILDERS, "mine", broken)
    with pytest.raises(ValueError, match="too small for mine") as found:
        networks.build("mine", 10)
    assert "expected input" in str(found.value.__cause__)


@pytest.mark.parametrize("size", [7, 16])
def test_strided_pointwise_convolution_is_torchs(size):
    layer = networks.StridedPointwise(3, 5, 1, 2, bias=False)
    plain = torch.nn.Conv2d(3, 5, 1, 2, bias=False)
    plain.load_state_dict(layer.state_dict())
    images = torch.randn(4, 3, size, size).to(memory_format=torch.channels_last).requires_grad_()
    torch.testing.assert_close(layer(images), plain(images))
    ours, theirs = (
        torch.autograd.grad(one(images).square().sum(), (images, one.weight))
        for one in (layer, plain)
    )
    torch.testing.assert_close(ours, theirs)


def test_strided_pointwise_gradient_keeps_the_memory_format():
    images = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(networks.StridedPointwise(3, 5, 1, 2)(images).sum(), images)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_training_on_two_threads_survives_odd_batches():
    code = """
import torch
from tskd_lib import networks
torch.set_num_threads(2)
block = networks.ResidualBlock(8, 16, 2).to(memory_format=torch.channels_last)
for _ in range(200):
    hidden = torch.randn(61, 8, 16, 16).to(memory_format=torch.channels_last)
    block(hidden.requires_grad_()).square().sum().backward()
    junk = [torch.randn(n) for n in (16, 64, 100, 1000, 5000)]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
