"""Learning rates of the groups and over the epochs."""

import pytest

from ops.optim import build_optimizer, learning_rate, set_learning_rate


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
