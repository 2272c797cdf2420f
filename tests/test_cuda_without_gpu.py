"""The paths of a GPU on fake tensors, which have a shape and a device but no numbers: no devices are mixed, and the
program waits for the GPU (reads something back) as seldom as is written here.

    CUDA_VISIBLE_DEVICES=0 python -m pytest tests/test_cuda_without_gpu.py    # on a GPU: for real, beside the CPU
"""

import contextlib
import copy
import functools
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import yardstick
from models.ablation import FRAME_POLICIES, PATCH_POLICIES, Policies, outputs_of_policies
from models.uni_adafocus import Output, TrainingOutput, UniAdaFocus
from ops import engine
from ops.data.sources import ClipFrames
from ops.inference import prepare_for_inference
from ops.losses import training_losses
from ops.metrics import training_accuracy
from ops.stepwise import stepwise
from ops.toy import pretrain
from tests.shared import SMALL, replace_cudnn, thin_reference_model

ON_GPU = torch.cuda.is_available()
SHAPE = (2, SMALL["num_segments"], 3, SMALL["input_size"], SMALL["input_size"])
pytestmark = [
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),
    pytest.mark.skipif(
        torch.__version__ < "2.10" and not ON_GPU, reason="before PyTorch 2.10 fake tensors on a GPU need a driver"
    ),
]


class Reads(TorchDispatchMode):
    """Counts how often the program waits for a number or a tensor from the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name, keywords = function.overloadpacket.__name__, keywords or {}
        source = next((value for value in arguments if isinstance(value, Tensor)), None)
        if source is not None and source.device.type == "cuda":
            to_cpu = torch.device(keywords.get("device") or source.device).type == "cpu"
            if name in ("_local_scalar_dense", "nonzero", "masked_select") or (name == "_to_copy" and to_cpu):
                self.found.append(name)
        return function(*arguments, **keywords)


@contextlib.contextmanager
def moved(network: nn.Module, device: str) -> Iterator[nn.Module]:
    """A copy of the network on the device; where there is no GPU, its weights and all tensors of the block are fake."""
    network = copy.deepcopy(network)
    if ON_GPU:
        yield network.to(device)
        return
    with FakeTensorMode(allow_non_fake_inputs=False), pytest.MonkeyPatch.context() as patch:
        replace_cudnn(patch)  # PyTorch has no fakes of these
        for module in network.modules():
            for kept in (module._parameters, module._buffers):
                for name, value in kept.items():
                    if value is not None:
                        fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
                        kept[name] = nn.Parameter(fake, value.requires_grad) if kept is module._parameters else fake
        yield network


@pytest.fixture(autouse=True, scope="module")
def no_threads_for_a_fake_gpu() -> None:
    """A process's first backward pass starts threads for all devices, and with any, its children compute no gradients:
    so it is before there are fake ones."""
    torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def full_precision(monkeypatch) -> None:
    """A GPU rounds factors to TF32 in convolutions, unless told; the CPU does not."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def device() -> str:
    return "cuda:0" if ON_GPU else "cuda:1"  # of two, the one that is not the default


@pytest.fixture(scope="module")
def model() -> UniAdaFocus:
    return thin_reference_model(4, **SMALL)


@pytest.fixture
def prepared(model) -> UniAdaFocus:
    return prepare_for_inference(model)


def clips() -> Tensor:
    return torch.randint(0, 256, SHAPE, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def check(output: Output, expected: Output, device: str) -> None:
    """Every part is on the device, of the shape that the CPU's has, and on a GPU near it."""
    for name, value in vars(expected).items():
        found = getattr(output, name)
        assert str(found.device) == device and found.shape == value.shape, name
        if ON_GPU:
            close = functools.partial(torch.testing.assert_close, rtol=1e-3, atol=1e-3, check_dtype=False)
            close(found.cpu(), value, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
@pytest.mark.parametrize("network", ["model", "prepared"])
def test_an_evaluation_reads_nothing_back(network, model, device, request):
    network, expected = request.getfixturevalue(network), model(clips())
    with moved(network, device) as network:
        batches = [(clips(), None, torch.arange(2)), (clips(), None, torch.arange(2))]
        with Reads() as reads:
            found, _ = engine.collect(network, batches, lambda output: vars(output))
        assert reads.found == []
        check(Output(**{name: value[:2] for name, value in found.items()}), expected, device)


@pytest.fixture
def cudnn_calls(prepared, device, monkeypatch) -> Callable[..., Counter]:
    """How often the prepared network named, run once in a type, has cuDNN do a convolution with what follows it."""

    def calls(name: str, dtype: torch.dtype = torch.float32) -> Counter:
        found = Counter()
        with moved(getattr(prepared, name).network, device) as network:
            for function in ("cudnn_convolution_relu", "cudnn_convolution_add_relu"):
                real = getattr(torch, function)
                count = functools.partial(_counted, found, function, real)
                monkeypatch.setattr(torch, function, count)
            images = torch.zeros(2, 3, 64, 64, device=device).to(dtype, memory_format=torch.channels_last)
            with torch.no_grad():
                network.to(dtype)(images)
        return found

    return calls


def _counted(found: Counter, name: str, function: Callable[..., Tensor], *given: object) -> Tensor:
    found[name] += 1
    return function(*given)


def test_cudnn_does_convolutions_with_shortcut_and_activation(cudnn_calls):
    """In the thin ResNet-50 of four blocks of three and the first, but not the four that only lead to a shortcut. In
    MobileNetV2 the first, the last, and one in each block that widens it; depthwise ones are not quicker so."""
    assert cudnn_calls("local_CNN") == {"cudnn_convolution_add_relu": 4, "cudnn_convolution_relu": 9}
    assert cudnn_calls("global_CNN") == {"cudnn_convolution_relu": 6}


def test_cudnn_does_not_where_it_was_not_tried_or_is_switched_off(cudnn_calls, monkeypatch):
    assert cudnn_calls("local_CNN", torch.bfloat16) == {}
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    assert cudnn_calls("local_CNN") == {}


@pytest.mark.skipif(not ON_GPU, reason="numbers")
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@torch.no_grad()
def test_a_prepared_network_on_a_gpu_is_the_network_to_rounding(model, precision):
    frames, expected = clips().to("cuda:0"), model(clips()).logits
    found = prepare_for_inference(copy.deepcopy(model).to("cuda:0"), precision)(frames).logits.cpu()
    allowed = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}[precision]
    assert float((found - expected).norm() / expected.norm()) < allowed


@pytest.mark.skipif(not ON_GPU, reason="numbers")
@torch.no_grad()
def test_what_is_not_a_number_stays_none_on_a_gpu(model):
    diverged = copy.deepcopy(model).to("cuda:0")
    diverged.local_CNN.layer1[0].conv1.weight.fill_(torch.nan)
    frames = clips().to("cuda:0")
    assert not prepare_for_inference(diverged)(frames).focus_logits.isfinite().any()


@pytest.mark.parametrize("half", [None, (torch.float16, "backbones"), (torch.bfloat16, "all")] if ON_GPU else [None])
def test_a_training_step_reads_nothing_back(model, half, device):
    with moved(model, device) as network:
        network.train()
        if half:
            network.train_in_half(*half)
        frames, target = clips().to(device), torch.zeros(2, dtype=torch.int64).to(device)
        with Reads() as reads:
            output = network(frames)
            losses = training_losses(output, target, 0.1, 1.0)
            training_accuracy(engine.logits_by_head(output.policy), target)
        assert isinstance(output, TrainingOutput) and reads.found == []
        assert {str(loss.device) for loss in losses.values()} == {device}
        if ON_GPU:  # a fake backward pass wants a driver
            with Reads() as reads:
                losses["loss"].backward()
            assert reads.found == []


def test_the_backward_pass_needs_no_number(model):
    with moved(model, "cpu") as network:  # whatever needs a number fails with fake ones
        losses = training_losses(network.train()(clips()), torch.zeros(2, dtype=torch.int64), 0.1, 1.0)
        losses["loss"].backward()
        assert network.spatial_policy.encoder[0].weight.grad is not None


@torch.no_grad()
def test_early_exit_reads_back_where_to_look_once_and_then_what_each_exit_says(prepared, device):
    with moved(prepared, device) as network:
        with Reads() as reads:
            steps = list(stepwise(network, ClipFrames(clips()), [(1, [1]), (2, [2])]))
        assert len(reads.found) == len(steps) + 1
        assert [str(step.logits.device) for step in steps] == ["cpu"] * 3


@torch.no_grad()
def test_policies_of_an_ablation_stay_on_the_device(model, device):
    choices = [Policies(patches, frames) for patches in PATCH_POLICIES for frames in FRAME_POLICIES]
    choices = [choice for choice in choices if ON_GPU or not choice.are_random]  # these want the videos' numbers
    with moved(model, device) as network:
        outputs = outputs_of_policies(network, clips().to(device), torch.arange(2), choices)
        assert {str(output.logits.device) for output in outputs} == {device}


@torch.no_grad()
def test_the_yardstick_runs_on_a_gpu(model, device):
    expected = model(clips())
    with moved(model, device) as network:
        ready = yardstick.baseline_clips(network, clips())
        assert ready.device.type == "cpu"
        check(yardstick.baseline_evaluation(network, ready, torch.device(device)), expected, device)


@pytest.mark.parametrize("training", [True, False])
def test_pretraining_on_stills_brings_them_to_the_networks_device(device, training, monkeypatch):
    """Stills and targets are drawn on the CPU; only the logits of a test come back."""
    network = nn.Conv2d(3, 8, 32, stride=32)
    network_and_head = nn.ModuleList([network, nn.Linear(8, 9)])
    with moved(network_and_head, device) as (network, head), Reads() as reads:
        images = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
        targets = torch.full((2, 4, 4, 9), 1 / 9)
        if training:
            if not ON_GPU:  # no other order of fake weights, and no gradients
                monkeypatch.setattr(Tensor, "backward", lambda loss: None)
                monkeypatch.setattr(nn.Module, "to", lambda module, **order: module)
            pretrain.train(network, head, [(images, targets)] * 2, steps=40, rate=0.01, name="")
        else:
            network.eval()
            assert pretrain.tile_logits(network, head, images, 4).cpu().shape == (2, 4, 4, 9)
    assert reads.found == ([] if training else ["_to_copy"])
