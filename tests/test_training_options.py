"""Whole runs with the options of training's speed and memory."""

import json

import pytest
import torch

import main
import main_semiAMP
from models import backbones
from ops.loss_history import Averages, LossHistory
from ops.runner import evaluation_is_due, line_on_waiting
from ops.setup import build_model, train_in_half
from ops.utils.errors import UserError
from opts import build_parser, parse_options
from tests.shared import SMALL_OPTIONS, call, call_together, the_error

FOLDER = "UniAdaFocus_mine_mbv2_segment6_e1"
pytestmark = pytest.mark.usefixtures("thin_networks", "no_pictures")


@pytest.fixture
def options(dataset_folder, tmp_path):
    return ["--dataset", "mine", "--data_dir", dataset_folder, "--root_log", tmp_path, *SMALL_OPTIONS, "--epochs", 1]


def final_loss(tmp_path) -> float:
    return json.loads((tmp_path / FOLDER / "metrics.jsonl").read_text())["train"]["loss"]


@pytest.mark.parametrize("script", [main, main_semiAMP])
def test_a_batch_may_be_worked_through_in_pieces(script, options, tmp_path, capsys):
    assert call(script.main, *options, "--batch_size", 4, "--grad_accum", 2) == 0
    assert 0 < final_loss(tmp_path) < 100
    assert "Epoch: [0][0/1]" in capsys.readouterr().out  # one step of four videos, not two


def test_two_processes_work_through_their_shares_in_pieces(options, tmp_path):
    call_together(main.main, *options, "--batch_size", 4, "--grad_accum", 2)
    assert 0 < final_loss(tmp_path) < 100


@pytest.mark.parametrize("pieces", [3, 4])
def test_pieces_that_do_not_divide_a_share_are_refused_in_one_line(pieces, options, tmp_path, capsys):
    assert call(main.main, *options, "--batch_size", 2, "--grad_accum", pieces) == 2
    error = the_error(capsys.readouterr().err)
    assert f"--grad_accum {pieces}" in error and "--batch_size 2" in error
    assert not list(tmp_path.glob("UniAdaFocus*"))


@pytest.mark.parametrize("script", [main, main_semiAMP])
def test_activations_may_be_computed_again(script, options, tmp_path):
    states = []
    for number, change in enumerate(([], ["--checkpoint_activations"])):
        folder = tmp_path / str(number)
        assert call(script.main, *options, "--batch_size", 4, "--grad_accum", 2, "--root_log", folder, *change) == 0
        states.append(torch.load(folder / FOLDER / "ckpt.pth.tar", weights_only=True)["state_dict"])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_two_processes_compute_activations_again(options, tmp_path):
    call_together(main.main, *options, "--batch_size", 4, "--grad_accum", 2, "--checkpoint_activations")
    state = torch.load(tmp_path / FOLDER / "ckpt.pth.tar", weights_only=True)["state_dict"]
    assert int(state["module.local_CNN.layer4.0.bn1.num_batches_tracked"]) == 2  # a step of two pieces
    assert 0 < final_loss(tmp_path) < 100


@pytest.mark.parametrize("script", [main, main_semiAMP])
def test_batch_norms_may_be_frozen(script, options, tmp_path):
    assert call(script.main, *options, "--freeze_bn") == 0
    state = torch.load(tmp_path / FOLDER / "ckpt.pth.tar", weights_only=True)["state_dict"]
    for backbone, layer in (("global_CNN", "features.0.1"), ("local_CNN", "bn1")):
        assert not state[f"module.{backbone}.{layer}.running_mean"].any()  # random weights start from 0
        assert (state[f"module.{backbone}.{layer}.weight"] != 1).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scope", ["backbones", "all"])
def test_training_in_either_half_precision(dtype, scope, options, tmp_path):
    assert call(main_semiAMP.main, *options, "--amp_dtype", dtype, "--amp_scope", scope) == 0
    state = torch.load(tmp_path / FOLDER / "ckpt.pth.tar", weights_only=True)
    assert ("scaler" in state) == (dtype == "float16")
    assert all(value.dtype is not torch.half for value in state["state_dict"].values())
    assert 0 < final_loss(tmp_path) < 100


@pytest.mark.parametrize("scope", ["backbones", "all"])
def test_the_scope_decides_which_parts_compute_in_half_precision(scope, small_model, monkeypatch):
    monkeypatch.setattr("ops.setup.computes_in_bfloat16", lambda: True)
    scaler = train_in_half(small_model, "auto", scope, torch.device("cpu"))
    assert not scaler.is_enabled()
    half = {}

    def remember(part):
        def hook(module, inputs, output):
            half[part] = output.dtype is torch.bfloat16

        return hook

    for name, part in small_model.named_children():
        part.register_forward_hook(remember(name))
    out = small_model.train()(torch.randint(0, 256, (2, 6, 3, 64, 64), dtype=torch.uint8))
    backbones = {"global_CNN", "local_CNN"}
    assert {name for name, is_half in half.items() if is_half} == (backbones if scope == "backbones" else set(half))
    assert len(half) == 8
    for output in (out.policy, out.random):
        assert all(value.dtype in (torch.float32, torch.int64) for value in vars(output).values())


def test_a_cpu_without_bfloat16_trains_in_float32_unless_told_otherwise(small_model, monkeypatch):
    monkeypatch.setattr("ops.setup.computes_in_bfloat16", lambda: False)
    assert not train_in_half(small_model, "auto", "backbones", torch.device("cpu")).is_enabled()
    assert small_model.half_dtype is None
    train_in_half(small_model, "bfloat16", "backbones", torch.device("cpu"))
    assert small_model.half_dtype is torch.bfloat16


def test_a_gpu_without_bfloat16_is_told_to_use_float16(small_model, monkeypatch):
    monkeypatch.setattr("ops.setup.gpu_has_bfloat16", lambda device: False)
    with pytest.raises(UserError, match="use --amp_dtype float16"):
        train_in_half(small_model, "bfloat16", "backbones", torch.device("cuda"))


@pytest.mark.parametrize(
    ("script", "change", "message"),
    [
        (main, ["--amp_dtype", "bfloat16"], "unrecognized arguments: --amp_dtype bfloat16"),
        (main, ["--amp_scope", "all"], "unrecognized arguments: --amp_scope all"),
        (main_semiAMP, ["--amp_dtype", "float8"], "invalid choice: 'float8'"),
        (main_semiAMP, ["--evaluate", "--resume", "x", "--amp_dtype", "float16"], "--amp_dtype applies to training"),
        (main_semiAMP, ["--evaluate", "--resume", "x", "--amp_scope", "all"], "--amp_scope applies to training"),
        (main, ["--grad_accum", "0"], "argument --grad_accum: 0 is below 1"),
    ],
)
def test_options_without_effect_are_refused_in_one_line(script, change, message, options, capsys):
    assert call(script.main, *options, *change) == 2
    assert message in the_error(capsys.readouterr().err)


def test_options_that_change_nothing_are_named_where_they_were_given(options, tmp_path, capsys):
    def lines(*more: object) -> list[str]:
        assert call(main.main, *options, *more) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("Without effect")]

    checkpoint, weights = tmp_path / FOLDER / "ckpt.pth.tar", ["--glance_ckpt_path", "w.pth"]
    assert lines() == []
    assert lines(*weights, "--eval_suffix", "mine") == [
        "Without effect: --glance_ckpt_path, with --pretrained none",
        "Without effect: --eval_suffix, which names the log of --evaluate and of early exit",
    ]
    assert lines(*weights, "--init_from", checkpoint) == ["Without effect: --glance_ckpt_path, with --init_from"]
    resumed = ["--resume", checkpoint, "--start_epoch", 0]
    assert lines(*weights, *resumed) == ["Without effect: --glance_ckpt_path, with --resume"]
    assert lines(*weights, "--evaluate", "--resume", checkpoint, "--eval_suffix", "mine") == []  # as published
    assert "Without effect: --glance_ckpt_path, with --resume" in (tmp_path / FOLDER / "log.csv").read_text()


def test_an_epoch_that_waited_for_frames_says_what_to_change():
    assert line_on_waiting(Averages(step_seconds=1.0, data_seconds=0.1, figures={})) == ""
    assert line_on_waiting(LossHistory(0, str).epoch_averages()) == ""  # an epoch resumed at its end
    line = line_on_waiting(Averages(step_seconds=1.0, data_seconds=0.4, figures={}))
    assert "40%" in line and "--workers" in line


def test_activations_are_computed_again_in_both_backbones_where_that_is_asked_for(options, monkeypatch):
    kinds, original = set(), backbones.checkpoint

    def watched(block, *given, **also):
        kinds.add(type(block).__name__)
        return original(block, *given, **also)

    monkeypatch.setattr(backbones, "checkpoint", watched)
    assert call(main.main, *options) == 0 and not kinds
    assert call(main.main, *options, "--checkpoint_activations") == 0
    assert {"InvertedResidual", "Bottleneck"} <= kinds


def test_half_precision_in_all_layers_is_not_that_of_the_backbones(options, tmp_path):
    losses = []
    for scope in ("backbones", "all"):
        root = tmp_path / scope
        assert (
            call(main_semiAMP.main, *options, "--root_log", root, "--amp_dtype", "bfloat16", "--amp_scope", scope) == 0
        )
        losses.append(final_loss(root))
    assert losses[0] != losses[1]


def test_the_loss_weighs_its_terms_as_the_options_say(options, tmp_path):
    assert call(main.main, *options, "--KL_ratio", 0.3, "--norm_ratio", 0.7) == 0
    losses = json.loads((tmp_path / FOLDER / "metrics.jsonl").read_text())["train"]
    heads = sum(losses[name] for name in ("cat", "global", "local", "temporal", "spatial"))
    assert losses["loss"] == pytest.approx(heads / 2 + 0.3 * losses["KL_div"] + 0.7 * losses["norm"], rel=1e-5)


@pytest.mark.parametrize(("schedule", "rate"), [(["cos"], 0.002), (["step", "--lr_steps", 1], 0.0004)])
def test_each_part_trains_at_its_multiple_of_the_epochs_rate(schedule, rate, options, tmp_path):
    settings = ["--lr", 0.004, "--momentum", 0.8, "--weight_decay", 0.03, "--temporal_lr_ratio", 0.3]
    settings += ["--stn_lr_ratio", 0.4, "--global_lr_ratio", 0.5, "--classifier_lr_ratio", 20]
    assert call(main.main, *options, *settings, "--epochs", 2, "--lr_type", *schedule) == 0
    state = torch.load(tmp_path / FOLDER.replace("e1", "e2") / "ckpt.pth.tar", weights_only=True)
    groups = state["optimizer"]["param_groups"]
    assert {group["name"]: group["lr"] / rate for group in groups} == pytest.approx({
        "temporal_policy": 0.3, "spatial_policy": 0.4, "global_CNN": 0.5, "global_CNN_fc": 0.5, "aux_fc": 0.5,
        "local_CNN": 1, "local_CNN_fc": 1, "pooling_classifier": 20,
    })  # fmt: skip
    assert {(group["momentum"], group["weight_decay"]) for group in groups} == {(0.8, 0.03)}


@pytest.mark.parametrize(
    ("every", "due"), [(5, [*range(0, 41, 5), *range(41, 50)]), (1, range(50)), (99, [0, *range(41, 50)])]
)
def test_evaluations_are_due_from_the_first_epoch_on_and_after_each_of_the_last_nine(every, due):
    assert [epoch for epoch in range(50) if evaluation_is_due(epoch, 50, every)] == list(due)


def test_the_seed_decides_the_random_weights():
    first, again, other = (
        build_model(parse_options(build_parser("test"), ["--data_dir", "x", *SMALL_OPTIONS, "--seed", seed]), 4)
        for seed in ("1", "1", "2")
    )
    assert torch.equal(first.aux_fc.weight, again.aux_fc.weight)
    assert not torch.equal(first.aux_fc.weight, other.aux_fc.weight)
