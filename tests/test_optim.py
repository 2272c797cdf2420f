"""Learning rates of the groups and over the epochs."""

from pathlib import Path

import pytest
import torch

from models.uni_adafocus import UniAdaFocus
from ops import checkpoint
from ops.engine import TrainingState
from ops.optim import build_optimizer, learning_rate, set_learning_rate
from tests.shared import SMALL


def test_cosine_starts_at_the_rate_and_nears_zero():
    rates = [learning_rate(epoch, 50, 0.002, "cos", [0, 0]) for epoch in range(50)]
    assert rates[0] == 0.002
    assert rates[25] == pytest.approx(0.001)
    assert 0 < rates[-1] < 1e-5
    assert rates == sorted(rates, reverse=True)


def test_steps_divide_by_ten():
    rates = [learning_rate(epoch, 50, 1.0, "step", [20, 40]) for epoch in (0, 19, 20, 39, 40)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="unknown lr_type 'linear'"):
        learning_rate(0, 1, 1.0, "linear", [])


def test_groups_follow_the_published_order_and_multiples(small_model):
    optimizer = build_optimizer(
        small_model,
        lr=0.1,
        momentum=0.9,
        weight_decay=0,
        temporal_lr_ratio=0.2,
        stn_lr_ratio=0.3,
        global_lr_ratio=0.5,
        classifier_lr_ratio=20,
    )
    set_learning_rate(optimizer, 0.01)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert list(rates.items()) == [
        ("temporal_policy", pytest.approx(0.002)),
        ("spatial_policy", pytest.approx(0.003)),
        ("global_CNN", pytest.approx(0.005)),
        ("global_CNN_fc", pytest.approx(0.005)),
        ("aux_fc", pytest.approx(0.005)),
        ("local_CNN", pytest.approx(0.01)),
        ("local_CNN_fc", pytest.approx(0.01)),
        ("pooling_classifier", pytest.approx(0.2)),
    ]
    ours = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(ours) == sorted(id(parameter) for parameter in small_model.parameters())


def test_groups_carry_the_multiples_that_the_published_code_reads(small_model):
    groups = small_model.parameter_groups(0.2, 0.3, 0.5, 20)
    assert {group["name"]: group["lr_mult"] for group in groups} == {
        "temporal_policy": 0.2, "spatial_policy": 0.3, "global_CNN": 0.5, "global_CNN_fc": 0.5, "aux_fc": 0.5,
        "local_CNN": 1.0, "local_CNN_fc": 1.0, "pooling_classifier": 20,
    }  # fmt: skip
    assert {group["decay_mult"] for group in groups} == {1}


@pytest.fixture
def fills_new_memory_with_nan():
    """What `torch.empty` returns is nan instead of whatever was there before."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("resumed", [False, True])
def test_steps_that_overflow_at_the_start_leave_no_trace(resumed, fills_new_memory_with_nan):
    """Gradient scaling skips them; with fused SGD they would leave uninitialised momentum."""
    model = UniAdaFocus(4, **SMALL)
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "temporal_lr_ratio": 1, "stn_lr_ratio": 1}
    optimizer = build_optimizer(model, **settings, global_lr_ratio=1, classifier_lr_ratio=1)
    if resumed:  # from a file of weights that no step was made with
        checkpoint.load_optimizer(optimizer, [None] * len(list(model.parameters())), Path("a file"))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trainable]
    for gradient in (float("inf"), float("nan"), 2.0):
        scaler.scale(torch.zeros((), requires_grad=True)).backward()
        for parameter in trainable:
            parameter.grad = torch.full_like(parameter, gradient * scaler.get_scale() / 2)
        scaler.step(optimizer)
        scaler.update()
    for parameter, old in zip(trainable, before, strict=True):
        torch.testing.assert_close(parameter.detach(), old - 0.1 * (1 + 0.01 * old))


def test_a_part_with_ratio_0_is_frozen(small_model):
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "temporal_lr_ratio": 1, "stn_lr_ratio": 1}
    optimizer = build_optimizer(small_model, **settings, global_lr_ratio=0, classifier_lr_ratio=1)
    before = {name: value.clone() for name, value in small_model.named_parameters()}
    output = small_model.train()(torch.randn(2, 6, 3, 64, 64))
    (output.policy.logits.sum() + output.policy.glance_logits.sum()).backward()
    optimizer.step()
    frozen = {"global_CNN", "global_CNN_fc", "aux_fc"}
    for name, value in small_model.named_parameters():
        if name.split(".")[0] in frozen:
            assert value.grad is None and torch.equal(value, before[name])
    assert not torch.equal(small_model.local_CNN.conv1.weight, before["local_CNN.conv1.weight"])


def test_momentum_of_another_memory_layout_belongs_to_the_right_weights(small_model):
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "temporal_lr_ratio": 1, "stn_lr_ratio": 1}
    settings |= {"global_lr_ratio": 1, "classifier_lr_ratio": 1}
    optimizer = build_optimizer(small_model, **settings)
    small_model.backbones_to_channels_last()
    assert not small_model.local_CNN.conv1.weight.is_contiguous()
    # As in a published file: every momentum in the default layout.
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    momenta = [torch.randn(parameter.shape) for parameter in parameters]

    checkpoint.load_optimizer(optimizer, momenta, Path("a file"))
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)  # in the parameter's layout, as the backward pass leaves it
    optimizer.step()

    for parameter, old, momentum in zip(parameters, before, momenta, strict=True):
        expected = old - 0.1 * (0.9 * momentum + parameter.grad + 0.01 * old)
        torch.testing.assert_close(parameter.detach(), expected)


def test_saved_momenta_and_weights_are_in_the_default_memory_layout(small_model):
    small_model.backbones_to_channels_last()
    optimizer = build_optimizer(
        small_model, lr=0.1, momentum=0.9, weight_decay=0, temporal_lr_ratio=1, stn_lr_ratio=1, global_lr_ratio=1,
        classifier_lr_ratio=1,
    )  # fmt: skip
    trainable = [parameter for parameter in small_model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    content = checkpoint.content_of(TrainingState(small_model, small_model, optimizer, scaler), {}, videos=1)
    saved = [entry["momentum_buffer"] for entry in content["optimizer"]["state"].values()]
    assert len(saved) == len(trainable)
    assert all(tensor.is_contiguous() for tensor in [*saved, *content["state_dict"].values()])
