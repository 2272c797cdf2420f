"""The network against figures made by running the published model, and its interface."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from models.spatial_policy import actions_for_all_frames, actions_to_boxes
from models.uni_adafocus import IMAGENET_MEAN, IMAGENET_STD, Decision, Glance, TrainingOutput, UniAdaFocus
from ops.losses import training_losses
from ops.optim import build_optimizer
from tests.shared import REFERENCE, SMALL, reference_clips, reference_weights


@pytest.mark.parametrize("file", ["eval_actnet_p128.npz", "eval_small_p96.npz"])
def test_evaluation_gives_the_published_models_outputs(file):
    reference = np.load(REFERENCE / file)
    size = {key: reference[f"config_{key}"].item() for key in ("ns", "ng", "nf", "nc", "ps")}
    hidden = {
        option: reference[key].item()
        for option, key in (
            ("stn_hidden_dim", "config_sh"),
            ("temporal_hidden_dim", "config_th"),
            ("temperature", "config_T"),
        )
        if key in reference
    }
    model = UniAdaFocus(size["nc"], size["ns"], size["ng"], size["nf"], size["ps"], **hidden).eval()
    model.load_state_dict(reference_weights(model))

    with torch.no_grad():
        output = model(reference_clips(reference["clips"], size["ns"]))

    assert output.focus_indices.tolist() == reference["focus_indices"].tolist()
    for ours, name, tolerance in (
        (output.step_logits, "cat_logits", 1e-3),
        (output.logits, "cat_pred", 1e-3),
        (output.glance_logits, "global_logits", 1e-3),
        (output.focus_logits, "local_logits", 1e-3),
        (output.spatial_logits, "spatial_logits", 1e-3),
        (output.frame_weights, "temporal_weights", 1e-5),
        (output.glance_actions, "glance_actions", 1e-5),
    ):
        np.testing.assert_allclose(ours.flatten(), reference[name].flatten(), rtol=0, atol=tolerance, err_msg=name)
    # One Monte-Carlo estimate, within five deviations of a single one.
    error = (output.temporal_logits.numpy() - reference["temporal_logits_mean"]) / reference[
        "temporal_logits_std_of_one_estimate"
    ]
    assert np.abs(error).max() < 5


def test_parameter_names_shapes_and_order_are_the_published_ones():
    published = json.loads((REFERENCE / "state_dict_layout.json").read_text())
    ours = {name: list(tensor.shape) for name, tensor in UniAdaFocus(num_classes=200).state_dict().items()}
    assert ours == published
    assert list(ours) == list(published)


def test_one_training_step_gives_the_published_losses_gradients_and_update(train_step):
    """In float64; in float32 it is test_benchmark_training_curve.py's four steps."""
    config = train_step["config"]
    model = UniAdaFocus(
        config["num_classes"], config["num_segments"], config["num_glance_segments"], config["num_focus_segments"],
        config["patch_size"], dropout=config["dropout"], fc_dropout=config["fc_dropout"],
    )  # fmt: skip
    before = reference_weights(model)
    model.load_state_dict(before)
    model.double().train()
    ratios = {name: config[name] for name in config if name.endswith("lr_ratio")}
    optimizer = build_optimizer(
        model, lr=config["lr"], momentum=config["momentum"], weight_decay=config["weight_decay"], **ratios
    )

    output = model(reference_clips(config["clips"], config["num_segments"]).double())
    losses = training_losses(output, torch.tensor(config["targets"]), config["KL_ratio"], config["norm_ratio"])
    losses["loss"].backward()
    gradients = {group["name"]: _norm([p.grad for p in group["params"]]) for group in optimizer.param_groups}
    parameters = {group["name"]: [p.detach().clone() for p in group["params"]] for group in optimizer.param_groups}
    optimizer.step()
    updates = {
        group["name"]: _norm([new - old for new, old in zip(group["params"], parameters[group["name"]], strict=True)])
        for group in optimizer.param_groups
    }

    assert set(losses) == set(train_step["losses"])
    for name, value in train_step["losses"].items():
        assert float(losses[name].detach()) == pytest.approx(value, rel=1e-9), name
    for name, value in train_step["gradient_norm"].items():
        assert gradients[name] == pytest.approx(value, rel=1e-8), name
    for name, value in train_step["update_norm"].items():  # float32 weights make the update's last digits
        assert updates[name] == pytest.approx(value, rel=1e-6), name
    after = model.state_dict()
    for name, value in train_step["running_stat_change"].items():
        assert _norm([after[name] - before[name].double()]) == pytest.approx(value, rel=1e-8), name
    focus_mean = float(output.policy.focus_logits.detach().mean())
    assert focus_mean == pytest.approx(train_step["focus_logits_mean"], rel=1e-8)


def _norm(tensors) -> float:
    return sum(float(t.detach().double().square().sum()) for t in tensors if t is not None) ** 0.5


def test_uint8_frames_are_normalised_on_the_way_in(small_model):
    frames = torch.randint(0, 256, (2, 6, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        from_bytes = small_model.eval()(frames)
        from_floats = small_model((frames / 255 - mean) / std)
    torch.testing.assert_close(from_bytes.step_logits, from_floats.step_logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(from_bytes.focus_indices, from_floats.focus_indices)


def test_output_has_the_documented_shapes(small_model):
    batch, glance, focus, classes = 2, 3, 2, 4
    frames = torch.randint(0, 256, (batch, 6, 3, 64, 64), dtype=torch.uint8)
    expected = {
        "logits": [batch, classes],
        "step_logits": [batch, glance + focus, classes],
        "glance_logits": [batch, glance, classes],
        "focus_logits": [batch, focus, classes],
        "temporal_logits": [batch, classes],
        "spatial_logits": [batch, classes],
        "frame_weights": [batch, glance],
        "glance_actions": [batch, glance, 4],
        "focus_indices": [batch, focus],
    }
    with torch.no_grad():
        evaluated, trained = small_model.eval()(frames), small_model.train()(frames)
    assert isinstance(trained, TrainingOutput)
    for output in (evaluated, trained.policy, trained.random):
        assert {name: list(getattr(output, name).shape) for name in expected} == expected
        assert output.focus_indices.dtype == torch.int64
        assert (output.focus_indices.diff(dim=1) > 0).all()


def test_the_two_training_branches_share_the_glance_and_differ_in_the_patches(small_model):
    with torch.no_grad():
        out = small_model.train()(torch.randint(0, 256, (2, 6, 3, 64, 64), dtype=torch.uint8))
    assert torch.equal(out.policy.glance_logits, out.random.glance_logits)
    assert torch.equal(out.policy.focus_indices, out.random.focus_indices)
    assert not torch.equal(out.policy.focus_logits, out.random.focus_logits)
    assert torch.equal(out.policy.temporal_logits, out.random.temporal_logits)  # one Monte-Carlo estimate
    assert torch.equal(out.policy.spatial_logits, out.random.spatial_logits)


def test_fc_dropout_is_of_single_frames_and_patches_and_dropout_of_the_steps():
    model = UniAdaFocus(4, **SMALL, dropout=0.2, fc_dropout=0.1)
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    heads = {name.split(".")[0] for name, rate in rates.items() if rate == 0.1}
    steps = {name.split(".")[0] for name, rate in rates.items() if rate == 0.2}
    assert heads == {"global_CNN_fc", "local_CNN_fc"} and "classifier" in steps and not heads & steps
    assert sum(name.startswith("classifier.") and rate == 0.2 for name, rate in rates.items()) == 5  # one per step


def test_a_video_gets_the_same_answer_whatever_else_is_in_the_batch(small_model):
    frames = torch.randint(0, 256, (3, 6, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        together, alone = small_model.eval()(frames), small_model(frames[2:])
    for field in dataclasses.fields(together):
        torch.testing.assert_close(
            getattr(together, field.name)[2:], getattr(alone, field.name), rtol=1e-4, atol=1e-4, msg=field.name
        )


def test_every_trainable_parameter_gets_a_gradient_and_the_unused_heads_need_none(small_model):
    out = small_model.train()(torch.randint(0, 256, (2, 6, 3, 64, 64), dtype=torch.uint8))
    training_losses(out, torch.tensor([0, 3]), kl_ratio=1.0, norm_ratio=1.0)["loss"].backward()
    without = {name for name, parameter in small_model.named_parameters() if parameter.grad is None}
    heads = {"global_CNN.classifier.weight", "global_CNN.classifier.bias", "local_CNN.fc.weight", "local_CNN.fc.bias"}
    assert without == heads
    assert all(not small_model.get_parameter(name).requires_grad for name in heads)


def test_the_backbones_batch_norms_keep_their_statistics_where_that_is_wanted(small_model):
    model, frames = copy.deepcopy(small_model), torch.randn(2, 6, 3, 64, 64)
    model.keep_batch_statistics()
    before = {name: value.clone() for name, value in model.named_buffers()}
    images = torch.randn(4, 3, 64, 64)
    expected = model.eval().global_CNN(images)
    torch.testing.assert_close(model.train().global_CNN(images), expected)
    model(frames).policy.logits.sum().backward()
    assert model.local_CNN.bn1.weight.grad.abs().sum() > 0
    changed = {name.split(".")[0] for name, value in model.named_buffers() if not torch.equal(value, before[name])}
    assert changed == {"classifier", "spatial_policy", "temporal_policy"}  # the others learn as ever


def test_a_resnet50_can_glance():
    model = UniAdaFocus(4, **SMALL, glance_arch="res50").eval()
    with torch.no_grad():
        output = model(torch.zeros(1, 6, 3, 64, 64, dtype=torch.uint8))
    assert model.aux_fc.in_features == 2048 and output.logits.shape == (1, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_segments": 7}, r"num_segments \(7\) must be a multiple of num_glance_segments \(3\)"),
        ({"num_focus_segments": 7}, r"num_focus_segments \(7\) must be from 1 to num_segments \(6\)"),
        ({"patch_size": 20}, r"patch_size \(20\) must be from 27 to 64"),
        ({"patch_size": 65}, "must be from 27 to 64"),
        ({"input_size": 70}, "must be a multiple of 32"),
        ({"glance_arch": "vgg"}, "unknown glance network 'vgg'"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        UniAdaFocus(4, **(SMALL | change))


def test_frames_of_another_shape_are_refused(small_model):
    with pytest.raises(ValueError, match=r"must be \[B, 6, 3, 64, 64\], not \[1, 5, 3, 64, 64\]"):
        small_model(torch.zeros(1, 5, 3, 64, 64, dtype=torch.uint8))


def test_bytes_get_the_published_mean_and_deviation_of_red_green_and_blue(thin_model):
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(-1, 3, 1, 1)
    expected = [[-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]]
    torch.testing.assert_close(thin_model.normalise(black_and_white).flatten(1), torch.tensor(expected))


@pytest.fixture
def longer_model(thin_networks) -> UniAdaFocus:
    """Three glance frames and two patches out of 24 frames."""
    torch.manual_seed(0)
    return UniAdaFocus(4, **(SMALL | {"num_segments": 24}))


def test_training_glances_at_any_frame_of_each_segment_and_evaluation_at_the_second(longer_model):
    drawn = longer_model.train().glance_indices(200, torch.device("cpu"))
    assert [set(frames) for frames in drawn.T.tolist()] == [set(range(8)), set(range(8, 16)), set(range(16, 24))]
    assert longer_model.eval().glance_indices(2, torch.device("cpu")).tolist() == [[1, 9, 17]] * 2


@torch.no_grad()
def test_training_draws_focus_frames_within_their_quantiles_and_evaluation_takes_the_middle(longer_model):
    torch.nn.init.zeros_(longer_model.temporal_policy.Tconv[-1].weight)  # all frames weigh the same
    glance = Glance(torch.zeros(300, 3, 1280, 2, 2), torch.zeros(300, 3, 1280), torch.zeros(300, 3, 4))
    drawn = longer_model.train().decide(glance).focus_indices
    assert [set(frames) for frames in drawn.T.tolist()] == [set(range(12)), set(range(12, 24))]
    assert longer_model.eval().decide(glance).focus_indices.tolist() == [[6, 18]] * 300


def test_random_patches_have_the_base_size_and_lie_anywhere_in_the_frame(thin_model):
    corner, side = actions_to_boxes(thin_model.random_actions(torch.zeros(1000, 2, 4)), 64)
    torch.testing.assert_close(side, torch.full_like(side, 32.0))
    places = corner.flatten(0, 1).T / 32  # [2, N], 0 .. 1
    torch.testing.assert_close(places.mean(1), torch.full((2,), 0.5), rtol=0, atol=0.05)
    assert 0 <= places.min() < 0.05 and 0.95 < places.max() <= 1
    assert abs(float(torch.corrcoef(places)[0, 1])) < 0.2


@torch.no_grad()
def test_the_first_branch_has_the_policys_patches_and_the_second_the_random_ones(thin_networks, monkeypatch):
    torch.manual_seed(0)
    model = UniAdaFocus(4, **SMALL, dropout=0.0, fc_dropout=0.0)
    model.keep_batch_statistics()
    monkeypatch.setattr(model, "random_actions", torch.ones_like)  # whole frames
    frames = torch.randn(2, 6, 3, 64, 64)
    out = model.train()(frames)
    indices = out.policy.focus_indices
    learned = actions_for_all_frames(out.policy.glance_actions, 6).gather(1, indices.unsqueeze(-1).expand(-1, -1, 4))
    for branch, actions in ((out.policy, learned), (out.random, torch.ones_like(learned))):
        decision = Decision(branch.frame_weights, branch.glance_actions, indices, actions)
        expected = model.local_CNN_fc(model.focus(frames, decision))
        torch.testing.assert_close(branch.focus_logits, expected, rtol=1e-4, atol=1e-5)


def test_the_temporal_signal_is_drawn_anew_in_training_and_alike_in_evaluation(thin_model):
    glance = Glance(torch.empty(0), torch.empty(0), torch.randn(1, 6, 4))
    decision = Decision(torch.randn(1, 6).softmax(1), torch.empty(0), torch.empty(0), torch.empty(0))
    for training in (True, False):
        thin_model.train(training)
        once, again = (thin_model.temporal_signal(glance, decision) for _ in range(2))
        assert torch.equal(once, again) != training
