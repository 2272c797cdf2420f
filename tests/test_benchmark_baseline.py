"""The yardstick computes what ours computes, at the published costs; both benchmarks of training run."""

import argparse
import json
import pickle
import re

import pytest
import torch

from benchmarks import baseline, gpu, yardstick
from benchmarks.measuring import largest_difference
from models.uni_adafocus import UniAdaFocus
from ops.optim import build_optimizer
from tests.shared import SMALL, call, the_error

SIZES = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))] + ["--classes", "4"]
CPU = torch.device("cpu")


@pytest.fixture
def exact_model() -> UniAdaFocus:
    """In float64, where rounding does not hide differences, and without dropout."""
    torch.manual_seed(0)
    return UniAdaFocus(4, **SMALL, dropout=0.0, fc_dropout=0.0).double()


def clips() -> torch.Tensor:
    return torch.randint(0, 256, (2, 6, 64, 64, 3), dtype=torch.uint8).permute(0, 1, 4, 2, 3)


def test_a_training_step_of_the_yardstick_is_one_of_ours(exact_model):
    published = yardstick.baseline_model(exact_model)
    exact_model.backbones_to_channels_last()
    frames, target = clips(), torch.tensor([0, 3])
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    ours = build_optimizer(exact_model, **yardstick.SGD, **yardstick.RATES)
    theirs = yardstick.baseline_optimizer(published)

    torch.manual_seed(1)
    losses = baseline.training_step(exact_model, frames, target, ours, scaler, CPU)
    torch.manual_seed(1)
    normalised = yardstick.baseline_clips(published, frames)
    expected = yardstick.baseline_training_step(published, normalised, target, theirs, scaler, CPU)

    assert {name: float(losses[name]) for name in expected} == pytest.approx(expected, rel=1e-9)
    gradients = [
        {
            part: torch.cat([p.grad.flatten() for p in module.parameters() if p.requires_grad])
            for part, module in model.named_children()
        }
        for model in (published, exact_model)
    ]
    difference = largest_difference(*gradients)
    assert float(difference.split()[0]) < 1e-6, difference
    states = exact_model.state_dict(), published.state_dict()
    for name, value in states[1].items():
        if not name.endswith("num_batches_tracked"):  # the yardstick's spatial policy runs twice
            torch.testing.assert_close(states[0][name], value, rtol=1e-7, atol=1e-9, msg=name)
    assert not any(group["fused"] or group["foreach"] for group in theirs.param_groups)


def test_the_benchmark_itself_compares_both_in_float64(thin_networks):
    difference = baseline.difference_in_double(argparse.Namespace(classes=4, device="cpu"))
    assert 0 < float(difference.split()[0]) < 1e-6, difference


def test_an_evaluation_of_the_yardstick_is_one_of_ours(exact_model):
    published = yardstick.baseline_model(exact_model).eval()
    frames = clips()
    theirs = yardstick.baseline_evaluation(published, yardstick.baseline_clips(published, frames), CPU)
    with torch.no_grad():
        ours = exact_model.eval()(frames)
    for name, value in vars(theirs).items():
        torch.testing.assert_close(getattr(ours, name), value, rtol=1e-7, atol=1e-9, msg=name)


def test_the_yardstick_keeps_the_logits_once_for_each_draw():
    weights, logits = torch.full((2, 6), 1 / 6, requires_grad=True), torch.randn(2, 6, 5, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        yardstick.baseline_temporal_signal(weights, logits, training=True)
    assert kept.count((2, 128, 6, 5)) == 2  # with none and with one of the frames taken out


@pytest.fixture
def no_processes(monkeypatch):
    """What processes get whose memory is measured (test_benchmark_measuring.py) is tried out in this one."""

    def peak_memory(make, name, *others):
        pickle.dumps((make, name, *others))
        make(name, *others)()
        return {"yardstick": 3.0, "ours": 2.0}[name]

    monkeypatch.setattr(baseline, "peak_memory", peak_memory)
    monkeypatch.setattr(baseline, "difference_in_double", lambda arguments: "1.0e-09 (loss)")  # has a test of its own


def test_the_benchmark_prints_speeds_ratios_differences_and_memory(no_processes, thin_networks, capsys):
    assert call(baseline.main, *SIZES, "--rounds", 1, "--precision", "float32") == 0
    printed = capsys.readouterr().out
    for title, times in (
        ("evaluation, float32, videos/s", 1),
        ("training, float32, videos/s", 1),
        ("training, float32, --checkpoint_activations, videos/s", 1),
        ("  memory of a step, GB", 2),
    ):
        rows = re.findall(rf"^{title} +(\S+) +(\S+) +(\S+)", printed, re.MULTILINE)
        assert len(rows) == times
        assert all(float(ratio) > 0 for _, _, ratio in rows)
    assert re.search(r"^evaluation.* \S+e-\d+ \(\w+\)$", printed, re.MULTILINE)
    assert "1.0e-09 (loss) of losses and gradients in float64" in printed


def test_the_gpu_benchmark_runs_on_a_cpu(thin_networks, monkeypatch, capsys, tmp_path):
    ways = [gpu.Way("NCHW", channels_last=False), gpu.Way("bfloat16", "bfloat16", "bfloat16", "all", again=True)]
    monkeypatch.setattr(gpu, "TRAINING", ways)
    monkeypatch.setattr(gpu, "EVALUATION", gpu.EVALUATION[3:5])  # float16 is left out on a CPU
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    size = ["--batch_size", 2, "--rounds", 1, "--steps", 1, "--peak_tflops", 2, "--output", tmp_path / "gpu.json"]
    assert call(gpu.main, "--device", "cpu", *SIZES, *size) == 0
    printed = capsys.readouterr().out
    rates = r"videos/s +\S+ +\S+ +\S+  "
    assert len(re.findall(rf"^training, .*, {rates}.* GB; .* % of the peak, 2$", printed, re.MULTILINE)) == 2
    assert len(re.findall(rf"^evaluation, .*, {rates}", printed, re.MULTILINE)) == 1
    assert len(re.findall(r"^early exit, p = 10", printed, re.MULTILINE)) == 2
    rows = {row["what"]: row for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert rows["training from frames on disk, semi-AMP bfloat16, videos/s"]["ours"] > 0
    assert len(re.findall(r"_CNN alone, \w+, bfloat16, TFLOP/s +- +\S+ +-  \S+ % of the peak, 2$", printed, re.M)) == 4
    assert "aten::convolution_backward" in printed


def test_what_is_no_expression_is_refused_before_anything_is_measured(tmp_path, capsys):
    assert call(gpu.main, "--device", "cpu", "--only", "exit", "(", "--output", tmp_path / "gpu.json") == 2
    assert "--only exit (" in the_error(capsys.readouterr().err) and not (tmp_path / "gpu.json").exists()


def test_without_a_gpu_its_benchmark_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert call(gpu.main) == 2
    assert "PyTorch sees no GPU here" in the_error(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H200", 989.4), ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.0), ("Tesla T4", None)],
)
def test_the_peak_is_known_by_the_chips_name(name, peak):
    assert gpu.peak_of(name) == peak
