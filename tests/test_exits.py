"""The multi-exit network: shapes, sharing, costs, and running only a part of it."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tskd_lib import networks
from tskd_lib.exits import STRENGTHS, MultiExitNet, build_student, exit_branch

SHAPE = (3, 32, 32)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(
    "name, exits", [("resnet10", 4), ("resnet50", 4), ("resnet20", 3), ("vgg11", 5), ("alexnet", 5)]
)
def test_shapes_for_any_staged_backbone(name, exits, strength):
    network = build_student(name, 7, SHAPE, width=0.125, strength=strength)
    logits, features = network(torch.randn(2, *SHAPE))
    width = network.backbone.classifier.in_features
    assert logits.shape == (exits, 2, 7) and features.shape == (exits, 2, width)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_imagenet_stem_with_hidden_layers_before_the_classifier():
    network = build_student("alexnet", 3, (3, 96, 96), stem="imagenet", width=0.125)
    logits, features = network(torch.randn(2, 3, 96, 96))
    assert logits.shape == (5, 2, 3) and features.shape == (5, 2, 4096)


def test_the_deepest_exit_is_the_plain_network():
    network = build_student("resnet10", 5, SHAPE, width=0.25).eval()
    images = torch.randn(2, *SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(network(images).logits[-1], network.backbone(images))


def test_a_seed_gives_plain_and_multi_exit_students_the_same_backbone():
    plain = build_student("resnet10", 5, SHAPE, width=0.25, exits="deepest", seed=3)
    multi = build_student("resnet10", 5, SHAPE, width=0.25, seed=3)
    other = build_student("resnet10", 5, SHAPE, width=0.25, seed=4)
    weights = {n: network.backbone.state_dict() for n, network in [("p", plain), ("m", multi)]}
    for name, value in weights["p"].items():
        assert torch.equal(value, weights["m"][name])
    assert not torch.equal(other.backbone.stem[0].weight, plain.backbone.stem[0].weight)


def test_a_detached_exit_teaches_its_branch_alone():
    images = torch.randn(2, *SHAPE)
    kind = {"width": 0.25, "exits": (2, 3, 4)}
    usual, cut = (build_student("resnet10", 5, SHAPE, **kind, detach=d) for d in (False, True))
    assert "detach" not in usual.config and cut.config["detach"] is True
    torch.testing.assert_close(cut(images), usual(images), rtol=0, atol=0)
    cut(images).logits[:-1].sum().backward()
    assert not any(p.grad.any() for p in cut.backbone.parameters())
    taught = [*cut.branches.parameters(), *cut.classifiers.parameters()]
    assert taught and all(p.grad is not None for p in taught)
    cut(images).logits[-1].sum().backward()
    usual(images).logits[-1].sum().backward()
    for mine, other in zip(cut.backbone.parameters(), usual.backbone.parameters()):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=0)


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build_student("resnet8", 5, SHAPE, seed=9)
    torch.testing.assert_close(torch.rand(3), expected)


def test_running_up_to_an_exit_gives_the_same_and_computes_no_more():
    network = build_student("resnet10", 5, SHAPE, width=0.25).eval()
    entered = []
    for i, stage in enumerate(network.backbone.stages):
        stage.register_forward_pre_hook(lambda *_, i=i: entered.append(i))
    images = torch.randn(2, *SHAPE)
    with torch.inference_mode():
        full = network(images)
        entered.clear()
        part = network(images, upto=2)
    assert entered == [0, 1]
    torch.testing.assert_close(part.logits, full.logits[:2])
    torch.testing.assert_close(part.features, full.features[:2])


def test_chosen_exits():
    network = build_student("resnet10", 5, SHAPE, width=0.25, exits=(2, 4)).eval()
    every = build_student("resnet10", 5, SHAPE, width=0.25).eval()
    every.branches[1].load_state_dict(network.branches[0].state_dict())
    every.classifiers[1].load_state_dict(network.classifiers[0].state_dict())
    images = torch.randn(2, *SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(network(images).logits, every(images).logits[[1, 3]])


@pytest.mark.parametrize("exits, kept", [((1,), 1), ((1, 2), 2)])
def test_stages_after_the_deepest_exit_are_cut_off(exits, kept):
    """With one seed, what is left answers and costs as in the whole network."""
    cut, every = (build_student("resnet10", 5, SHAPE, width=0.25, exits=e) for e in (exits, "all"))
    assert len(cut.backbone.stages) == kept
    assert cut.flops() == every.flops()[:kept]
    assert cut.parameter_counts() == every.parameter_counts()[:kept]
    assert cut.parameter_counts()[-1] == sum(p.numel() for p in cut.parameters())
    images = torch.randn(2, *SHAPE)
    with torch.inference_mode():
        expected = every.eval()(images, upto=kept)
        for mine, other in zip(cut.eval()(images), expected):
            torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.parametrize("exits", ["all", (2, 4), (1, 3), (2,)])
def test_costs_up_to_an_exit_are_those_of_running_up_to_it(exits):
    network = build_student("resnet10", 5, SHAPE, width=0.25, exits=exits).eval()
    costs = zip(network.parameter_counts(), network.flops(), strict=True)
    for upto, (parameters, flops) in enumerate(costs, 1):
        network.zero_grad()
        with FlopCounterMode(display=False) as counter:
            logits = network(torch.randn(1, *SHAPE), upto=upto).logits
        assert flops == counter.get_total_flops()
        logits.sum().backward()
        assert parameters == sum(p.numel() for p in network.parameters() if p.grad is not None)


def test_costs_add_up():
    network = build_student("resnet10", 5, SHAPE, width=0.25)
    parameters, flops = network.parameter_counts(), network.flops()
    assert network.training
    assert parameters == sorted(parameters) and flops == sorted(flops)
    assert parameters[-1] == sum(p.numel() for p in network.parameters())
    plain = build_student("resnet10", 5, SHAPE, width=0.25, exits="deepest")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        plain.backbone.eval()(torch.zeros(1, *SHAPE))
    assert plain.flops() == [counter.get_total_flops()]
    assert plain.flops()[0] < flops[-1], "the exits passed on the way cost something"


def test_flops_of_a_convolution_by_hand():
    """3 x 3, 3 to 64 channels, 32 x 32 outputs: 2 * 9 * 3 * 64 * 1024 FLOPs in the stem."""
    network = build_student("resnet10", 10, SHAPE, exits="deepest")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.backbone.stem(torch.zeros(1, *SHAPE))
    assert counter.get_total_flops() == 2 * 9 * 3 * 64 * 1024
    # ResNet-18 on CIFAR is published at 0.56 GMACs
    assert build_student("resnet18", 10, SHAPE, exits="deepest").flops()[0] / 2 == pytest.approx(
        0.56e9, rel=0.01
    )


def test_strengths_are_ordered():
    counts = [
        sum(p.numel() for p in exit_branch(16, 128, 3, strength).parameters())
        for strength in STRENGTHS
    ]
    assert counts == sorted(counts) and len(set(counts)) == 3


@pytest.mark.parametrize(
    "strength, depthwise, blocks", [("separable", 1, 0), ("byot", 2, 0), ("residual", 0, 1)]
)
def test_what_one_halving_is_made_of(strength, depthwise, blocks):
    modules = [*exit_branch(8, 16, 1, strength).modules()]
    convolutions = [m for m in modules if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert len(convolutions) == depthwise
    assert sum(isinstance(m, networks.ResidualBlock) for m in modules) == blocks


@pytest.mark.parametrize("name", ["resnet10", "resnet50", "resnet20", "vgg11", "alexnet"])
def test_branches_end_at_the_resolution_of_the_deepest_map(name):
    network, seen = build_student(name, 7, SHAPE, width=0.125).eval(), []
    for branch in network.branches:
        branch[-2].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))
    network(torch.randn(1, *SHAPE))
    deepest = networks.feature_shapes(network.backbone)[-1][-1]
    rounded_up = name == "alexnet"  # its pools round down, 15 to 7 to 3; a branch up, to 8, to 4
    assert len(seen) == len(network.exits) - 1
    assert all(abs(size - deepest) <= rounded_up for size in seen)


@pytest.mark.parametrize(
    "name, size, halvings",
    [
        ("resnet10", 32, [3, 2, 1]),
        ("resnet10", 9, [3, 2, 1]),  # 9, 5, 3, 2: strides round up
        ("alexnet", 32, [2, 1, 1, 1]),  # 15, 7, 7, 7, 3: pools round down
        ("vgg11", 48, [4, 3, 2, 1]),  # 24, 12, 6, 3, 1
    ],
)
def test_branches_halve_as_often_as_the_stages_after_them(name, size, halvings):
    network = build_student(name, 7, (3, size, size), width=0.125, strength="residual")
    found = [
        sum(isinstance(m, networks.ResidualBlock) for m in branch) for branch in network.branches
    ]
    assert found == halvings


def test_a_branch_halves_as_often_as_the_backbone():
    seen = []
    branch = exit_branch(8, 64, 3)
    branch[-2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    assert branch(torch.randn(2, 8, 32, 32)).shape == (2, 64)
    assert seen == [(2, 64, 4, 4)]


@pytest.mark.parametrize("exits", ["last", "", (), (0, 4), (4, 2), (2, 2, 4), (5,)])
def test_exits_that_make_no_sense(exits):
    with pytest.raises(ValueError, match="exits must be"):
        MultiExitNet(networks.build("resnet10", 5, width=0.25), exits)


def test_other_bad_input():
    with pytest.raises(ValueError, match="unknown branch strength 'huge'"):
        build_student("resnet10", 5, SHAPE, strength="huge")
    with pytest.raises(ValueError, match="unknown branch strength 'huge'"):
        exit_branch(8, 16, 1, "huge")
    network = build_student("resnet8", 5, SHAPE)
    for upto in (0, 4):
        with pytest.raises(ValueError, match="upto must be 1 to 3"):
            network(torch.randn(1, *SHAPE), upto=upto)
