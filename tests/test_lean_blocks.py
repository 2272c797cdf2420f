"""The backbones' blocks give torchvision's numbers and keep less."""

import copy

import pytest
import torch
from torch import nn

from models.lean_blocks import LeanBottleneck, LeanInvertedResidual


def inverted_residual(channels: int, stride: int, expand: int) -> LeanInvertedResidual:
    block = LeanInvertedResidual(8, channels, stride, expand)
    parts = (list(part) if isinstance(part, nn.Sequential) else [part] for part in block.conv)
    block.conv = nn.Sequential(*(layer for layers in parts for layer in layers))
    return block


def bottleneck(stride: int) -> LeanBottleneck:
    shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, stride, bias=False), nn.BatchNorm2d(16))
    return LeanBottleneck(8, 4, stride, shortcut)


BLOCKS = {
    "residual": lambda: inverted_residual(8, 1, 6),
    "with stride": lambda: inverted_residual(12, 2, 6),
    "not expanded": lambda: inverted_residual(8, 1, 1),
    "bottleneck": lambda: bottleneck(1),
    "bottleneck with stride": lambda: bottleneck(2),
}


def both_kinds(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """A block with weights and batch norms of its own, and torchvision's block with the same layers."""
    torch.manual_seed(0)
    lean = BLOCKS[name]().to(dtype)
    for module in lean.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    plain = copy.deepcopy(lean)
    plain.__class__ = type(lean).__base__
    return lean, plain


def results(block: nn.Module, images: torch.Tensor, half: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Output, gradients and buffers after one training step."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype=half, enabled=half is not None):
        output = block.train()(images)
    (output.float() if half else output).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
    return {"output": output.detach(), "images": images.grad} | gradients | dict(block.named_buffers())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", BLOCKS)
def test_outputs_gradients_and_statistics_are_torchvisions(name, layout):
    images = torch.randn(3, 8, 6, 6, dtype=torch.float64).contiguous(memory_format=layout)
    ours, theirs = (results(block.to(memory_format=layout), images) for block in both_kinds(name))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-11, msg=key)


@pytest.mark.parametrize("name", ["residual", "bottleneck"])
def test_half_precision_gives_float32_gradients_as_near_as_torchvisions(name):
    images = torch.randn(4, 8, 6, 6)
    lean, plain = both_kinds(name, torch.float32)
    exact = results(copy.deepcopy(plain), images)
    ours, theirs = (results(block, images, torch.bfloat16) for block in (lean, plain))
    assert ours["output"].dtype is theirs["output"].dtype
    for key, value in exact.items():
        error, usual = ((other[key].float() - value.float()).norm() for other in (ours, theirs))
        assert ours[key].dtype is theirs[key].dtype, key
        assert error <= 1.5 * usual + 1e-6 * value.float().norm(), key


@pytest.mark.parametrize("name", BLOCKS)
def test_evaluation_and_frozen_batch_norms_are_torchvisions(name):
    images = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    lean, plain = (block.eval() for block in both_kinds(name))
    with torch.no_grad():
        assert torch.equal(lean(images), plain(images))
    lean(images).sum().backward()
    plain(images).sum().backward()
    for ours, theirs in zip(lean.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize(("name", "share"), [("residual", 0.6), ("bottleneck", 0.9)])
def test_less_is_kept_for_the_backward_pass(name, share):
    def kept(block: nn.Module) -> int:
        storages = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: storages.update({tensor.untyped_storage().data_ptr(): tensor.nbytes}) or tensor,
            lambda tensor: tensor,
        ):
            output = block.train()(torch.randn(2, 8, 16, 16, dtype=torch.float64, requires_grad=True))
        assert output.requires_grad
        return sum(storages.values())

    lean, plain = both_kinds(name)
    assert kept(lean) < share * kept(plain)
