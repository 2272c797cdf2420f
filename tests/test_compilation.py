"""`--compile`, on backbones that are small enough to compile in seconds."""

import copy
import os
import shutil
import signal

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.torch_version import TorchVersion

import main
from models.backbones import run_blocks
from models.uni_adafocus import UniAdaFocus
from ops import checkpoint
from ops.inference import InferenceNetwork, prepare_for_inference
from ops.setup import RECOMPUTES_COMPILED, check_compiler, compile_backbones
from tests.shared import SMALL, SMALL_OPTIONS, call, the_error
from tests.thin import thin_networks

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ here")


class SmallBackbone(nn.Module):
    """A convolution, a batch norm and an activation."""

    feature_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(images)))


@pytest.fixture
def model(small_model) -> UniAdaFocus:
    small_model.global_CNN, small_model.local_CNN = SmallBackbone(), SmallBackbone()
    return small_model


@needs_compiler
def test_training_gives_the_same_maps_and_gradients_and_evaluation_is_left_alone(model):
    backbone, images = model.local_CNN, torch.rand(2, 3, 8, 8)

    def train_once() -> list[Tensor]:
        backbone.train().zero_grad()
        maps = backbone(images)
        maps.square().sum().backward()
        return [maps.detach(), backbone.conv.weight.grad.clone()]

    expected, names = train_once(), list(model.state_dict())
    compile_backbones(model)
    torch._dynamo.utils.counters.clear()
    for ours, before in zip(train_once(), expected, strict=True):
        torch.testing.assert_close(ours, before, rtol=1e-4, atol=1e-4)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 1
    backbone.eval()(images)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert list(model.state_dict()) == names


@needs_compiler
@pytest.mark.skipif(torch.__version__ < RECOMPUTES_COMPILED, reason="both together are refused")
def test_activations_may_be_computed_again_in_a_compiled_backbone():
    class Backbone(nn.Module):
        """Two blocks, with the maps between them kept and the rest computed again."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(SmallBackbone(), nn.Sequential(nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4)))

        def forward(self, images: Tensor) -> Tensor:
            return run_blocks(self.blocks, images, checkpoints=True)

    torch.manual_seed(0)
    backbone, images = Backbone().double(), torch.rand(4, 3, 9, 9, dtype=torch.float64)
    compiled = copy.deepcopy(backbone)
    compiled.forward = torch.compile(compiled.forward, fullgraph=True)
    for network in (backbone, compiled):
        network(images).square().sum().backward()
    for ours, expected in zip(compiled.parameters(), backbone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)
    for ours, expected in zip(compiled.buffers(), backbone.buffers(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_compiling_what_is_computed_again_is_refused_where_pytorch_would_count_it_twice(
    dataset_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.8.0+cu128"))
    monkeypatch.setattr("ops.setup.check_compiler", lambda device: None)
    both = ["--compile", "--checkpoint_activations"]
    options = ["--dataset", "mine", "--data_dir", dataset_folder, "--root_log", tmp_path / "log", *SMALL_OPTIONS]
    assert call(main.main, *options, *both) == 2
    line = the_error(capsys.readouterr().err)
    assert all(part in line for part in (*both, "2.9", "2.8.0", "leave one of them out"))
    assert not (tmp_path / "log").exists()


@needs_compiler
@torch.inference_mode()
def test_a_prepared_backbone_that_is_compiled_is_one_graph_and_gives_the_same_maps():
    backbone, images = SmallBackbone().eval(), torch.rand(2, 3, 8, 8)
    torch._dynamo.utils.counters.clear()
    torch.testing.assert_close(InferenceNetwork(backbone, compiled=True)(images), backbone(images))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def test_a_model_whose_training_is_compiled_can_be_prepared(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda work, **_: work)
    with thin_networks():
        model = UniAdaFocus(4, **SMALL)
    frames = torch.randint(0, 256, (1, 6, 3, 64, 64), dtype=torch.uint8)
    compile_backbones(model)
    with torch.no_grad():
        expected = model.eval()(frames).logits
        torch.testing.assert_close(prepare_for_inference(model)(frames).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("thin_networks", "no_pictures")
def test_the_option_reaches_training_and_evaluation(dataset_folder, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda work, **_: compiled.append(work) or work)
    run = ["--dataset", "mine", "--data_dir", dataset_folder, "--root_log", tmp_path, *SMALL_OPTIONS, "--epochs", 1]
    assert call(main.main, *run, "--compile") == 0
    assert len(compiled) == 1 + 2 + 2  # the check, the backbones of training, those of the evaluation


def test_where_it_does_not_work_it_is_one_line(dataset_folder, tmp_path, monkeypatch, capsys):
    def no_compiler(*_, **__):
        raise RuntimeError("No working C++ compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", no_compiler)
    run = ["--dataset", "mine", "--data_dir", dataset_folder, "--root_log", tmp_path, *SMALL_OPTIONS, "--compile"]
    assert call(main.main, *run) == 2
    error = the_error(capsys.readouterr().err)
    assert "--compile does not work here (No working C++ compiler found): it needs a C++ compiler" in error


@pytest.mark.usefixtures("thin_networks", "no_pictures")
@pytest.mark.parametrize("tried_first", [True, False])  # whether it works; else while a backbone is compiled
@pytest.mark.parametrize("signalled", [True, False])
def test_a_signal_that_ends_the_compiler_too_is_a_stop(
    tried_first, signalled, dataset_folder, tmp_path, monkeypatch, capsys
):
    """As schedulers and `timeout` send it, to the whole process group: PyTorch then finds that compiling has failed."""

    def killed_compiler(work, **_):
        def fails(*inputs):
            if signalled:
                os.kill(os.getpid(), signal.SIGTERM)
            raise TorchDynamoException("CppCompileError: C++ compile error\nand a thousand lines")

        is_the_trial = work.__name__ == "<lambda>"
        return fails if is_the_trial == tried_first else work

    monkeypatch.setattr(torch, "compile", killed_compiler)
    run = ["--dataset", "mine", "--data_dir", dataset_folder, "--root_log", tmp_path, *SMALL_OPTIONS, "--compile"]
    if signalled:
        assert call(main.main, *run) == 128 + signal.SIGTERM
        assert capsys.readouterr().err.splitlines() == [
            "SIGTERM: finishing this step, saving, leaving; a second one leaves at once"
        ]
    elif tried_first:
        assert call(main.main, *run) == 2
        assert "--compile does not work here" in the_error(capsys.readouterr().err)
    else:
        with pytest.raises(TorchDynamoException):
            call(main.main, *run)


@pytest.mark.usefixtures("thin_networks", "no_pictures")
def test_a_signal_that_ends_the_compiler_of_an_evaluation_loses_no_training(dataset_folder, tmp_path, monkeypatch):
    def killed_in_evaluation(work, **_):
        def fails(*inputs):
            os.kill(os.getpid(), signal.SIGTERM)
            raise TorchDynamoException("CppCompileError: C++ compile error")

        return fails if work.__name__ == "_call_impl" else work

    monkeypatch.setattr(torch, "compile", killed_in_evaluation)
    run = ["--dataset", "mine", "--data_dir", dataset_folder, "--root_log", tmp_path, *SMALL_OPTIONS, "--compile"]
    assert call(main.main, *run) == 128 + signal.SIGTERM
    (path,) = tmp_path.glob("*/ckpt.pth.tar")
    steps = len((dataset_folder / "train_split.txt").read_text().splitlines()) // 2
    found = checkpoint.read(path)
    assert (found.epoch, found.step) == (0, steps)


@needs_compiler
def test_with_a_compiler_it_works():
    check_compiler(CPU)
