"""ops/inference.py: the prepared network gives the answers of the network it is made from."""

import copy
import dataclasses
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from models.uni_adafocus import UniAdaFocus
from ops import inference as inference_network
from ops.flops import exit_gflops
from ops.inference import (
    FoldedConvolution,
    InferenceNetwork,
    check_precision,
    float32_convolutions,
    prepare_for_inference,
)
from ops.utils.errors import UserError
from tests.shared import SMALL, reference_weights, replace_cudnn, torch_threads


@pytest.fixture(scope="module", params=["mbv2", "res50"])
def model(request) -> UniAdaFocus:
    model = UniAdaFocus(4, **SMALL, glance_arch=request.param)
    model.load_state_dict(reference_weights(model))
    return model.eval()


@pytest.fixture
def frames() -> torch.Tensor:
    coarse = torch.rand(12, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return (255 * nn.functional.interpolate(coarse, size=64, mode="bilinear")).to(torch.uint8).view(2, 6, 3, 64, 64)


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "not packed"])
@torch.no_grad()
def test_every_output_is_that_of_the_network_it_is_made_from(model, frames, packs, monkeypatch):
    if not packs:
        monkeypatch.setattr(inference_network, "onednn_packs", lambda: False)
    elif not inference_network.onednn_packs():
        pytest.skip("this PyTorch does not pack weights")
    expected, found = model(frames), prepare_for_inference(model)(frames)
    for field in dataclasses.fields(expected):
        torch.testing.assert_close(
            getattr(found, field.name), getattr(expected, field.name), rtol=1e-3, atol=1e-3, msg=field.name
        )


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def threads(request) -> Iterator[int]:
    with torch_threads(request.param):
        yield request.param


@torch.no_grad()
def test_an_image_gets_the_same_maps_to_rounding_in_groups_of_any_size(model, monkeypatch, threads):
    network = prepare_for_inference(model).local_CNN
    images = torch.rand(7, 3, 32, 32)
    at_once = network.network(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(network(images), at_once)
    monkeypatch.setattr(inference_network, "PIXELS_AT_ONCE", 2 * 32 * 32)
    torch.testing.assert_close(network(images), at_once)
    monkeypatch.setattr(inference_network, "PIXELS_AT_ONCE", 1)
    torch.testing.assert_close(network(images), at_once)


@torch.no_grad()
def test_the_network_it_is_made_from_stays_as_it_is(model, frames):
    before, state = model(frames).logits, copy.deepcopy(model.state_dict())
    prepared = prepare_for_inference(model)
    prepared(frames)
    assert torch.equal(model(frames).logits, before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert prepared.classifier is model.classifier


def test_no_batch_norm_or_activation_of_its_own_is_left_after_a_convolution(model):
    prepared = prepare_for_inference(model)
    for network in (prepared.global_CNN, prepared.local_CNN):
        kinds = [type(module) for module in network.modules()]
        assert nn.BatchNorm2d not in kinds and nn.Conv2d not in kinds
    kinds = [type(module) for module in prepared.spatial_policy.modules()]
    assert nn.BatchNorm3d not in kinds and kinds.count(nn.Conv3d) == 1  # the last has no batch norm
    # In ResNet-50 16 activations follow the addition of a shortcut; they and the other 33 are folded in.
    nodes = prepared.local_CNN.network.graph.nodes
    assert [node.target for node in nodes if node.op == "call_function"] == []
    calls = [node for node in nodes if node.op == "call_module"]
    assert not any(node.target.endswith("relu") for node in calls)
    assert [len(node.args) for node in calls].count(2) == 16


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("has_shortcut", [False, True])
@torch.no_grad()
def test_cudnn_gets_stride_padding_bias_and_shortcut_where_they_belong(activation, has_shortcut, monkeypatch):
    """With stand-ins that have cuDNN's signatures; on a GPU tests/test_cuda_without_gpu.py runs the real ones."""
    replace_cudnn(monkeypatch)
    convolution, batch_norm = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
    batch_norm.running_mean.normal_(), batch_norm.bias.normal_(std=5)
    convolution.eval(), batch_norm.eval()
    images, shortcut = torch.randn(2, 4, 8, 8), 5 * torch.randn(2, 6, 4, 4) if has_shortcut else None
    expected = batch_norm(convolution(images))
    expected = activation()(expected if shortcut is None else expected + shortcut)
    whole = FoldedConvolution(convolution, batch_norm, activation)
    torch.testing.assert_close(whole._by_cudnn(images, shortcut), expected)
    torch.testing.assert_close(whole(images, shortcut), expected)


@pytest.mark.parametrize(("channels", "side"), [((2048, 512), 1), ((64, 384), 8)])
@torch.no_grad()
def test_weights_are_packed_for_one_thread_and_for_single_images(channels, side):
    if not inference_network.onednn_packs():
        pytest.skip("this PyTorch does not pack weights")
    convolution, batch_norm = nn.Conv2d(*channels, 1, bias=False).eval(), nn.BatchNorm2d(channels[1]).eval()
    whole = FoldedConvolution(convolution, batch_norm, nn.ReLU)
    for threads, number in itertools.product((2, 1), (3, 1, 2)):
        with torch_threads(threads):
            images = torch.randn(number, channels[0], side, side).contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(whole(images), batch_norm(convolution(images)).relu(), rtol=1e-3, atol=1e-4)
            assert list(whole.packed) == ([2, 1] if threads == 1 else [] if number == 3 else [2])


@torch.no_grad()
def test_a_prepared_network_that_has_run_can_be_copied_and_saved(model, frames, tmp_path):
    prepared = prepare_for_inference(model)
    expected = prepared(frames).logits
    torch.save(prepared, tmp_path / "prepared.pth")
    for other in (copy.deepcopy(prepared), torch.load(tmp_path / "prepared.pth", weights_only=False)):
        assert torch.equal(other(frames).logits, expected)


def test_costs_count_the_same(model):
    assert exit_gflops(prepare_for_inference(model)) == pytest.approx(exit_gflops(model))


def test_a_model_in_training_mode_is_refused(small_model):
    with pytest.raises(ValueError, match="training mode"):
        prepare_for_inference(small_model.train())


@torch.no_grad()
def test_weights_that_are_not_numbers_give_answers_that_are_none(model, frames):
    diverged = copy.deepcopy(model)
    diverged.local_CNN.conv1.weight.fill_(torch.nan)
    assert not prepare_for_inference(diverged)(frames).focus_logits.isfinite().any()


@pytest.fixture
def bfloat16() -> str:
    try:
        check_precision("bfloat16", torch.device("cpu"))
    except UserError as error:
        pytest.skip(str(error))
    return "bfloat16"


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "not packed"])
@torch.no_grad()
def test_in_bfloat16_feature_maps_are_float32_and_roughly_the_same(model, packs, bfloat16, monkeypatch):
    if not packs:
        monkeypatch.setattr(inference_network, "onednn_packs", lambda: False)
    images = torch.rand(3, 3, 64, 64)
    prepared, lower = prepare_for_inference(model), prepare_for_inference(model, bfloat16)
    for name in ("global_CNN", "local_CNN"):
        expected, found = getattr(prepared, name)(images), getattr(lower, name)(images)
        assert found.dtype == torch.float32
        assert 0 < (found - expected).norm() < 0.2 * expected.norm()


def test_bfloat16_is_for_the_backbones_alone(model, bfloat16):
    prepared = prepare_for_inference(model, bfloat16)
    others = [part for name, part in prepared.named_children() if name not in ("global_CNN", "local_CNN")]
    assert all(parameter.dtype == torch.float32 for part in others for parameter in part.parameters())
    assert {buffer.dtype for buffer in prepared.local_CNN.buffers()} == {torch.bfloat16}


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(UserError, match="float16 is for GPUs"):
        check_precision("float16", torch.device("cpu"))
    check_precision("float16", torch.device("cuda"))


def test_bfloat16_on_a_cpu_without_the_instructions_is_refused(monkeypatch):
    monkeypatch.setattr(inference_network, "ON_X86", True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False)
    with pytest.raises(UserError, match="needs a GPU or a CPU with AVX-512"):
        check_precision("bfloat16", torch.device("cpu"))


@torch.no_grad()
def test_no_images_give_no_maps(model):
    assert InferenceNetwork(model.local_CNN)(torch.empty(0, 3, 64, 64)).shape == (0, 2048, 2, 2)


@pytest.mark.parametrize("interface", ["conv.fp32_precision", "allow_tf32"])
def test_convolutions_are_float32_in_the_block_and_as_before_after_it(interface):
    where, name, values = torch.backends.cudnn, interface, (False, True)
    if interface != "allow_tf32":
        if not hasattr(torch.backends.cudnn, "conv"):
            pytest.skip("this PyTorch has only the older interface")
        where, name, values = torch.backends.cudnn.conv, "fp32_precision", ("ieee", "tf32")
    for before in values:  # ends with PyTorch's default
        setattr(where, name, before)
        with pytest.raises(KeyError), float32_convolutions():
            if name == "fp32_precision":  # a mixture of both interfaces cannot be read by the older one
                assert where.fp32_precision == "ieee"
            raise KeyError
        assert getattr(where, name) == before
