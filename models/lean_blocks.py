"""The backbones' residual blocks, with fewer tensors kept for the backward pass and the same numbers.

PyTorch keeps the result of each convolution for the batch norm after it, and the result of the activation for the
convolution after that. The second follows from the first by a scale, a shift and a clamp, so here it is computed again
in the backward pass; after "In-Place Activated BatchNorm" (arXiv 1712.02616) and "Memory-Efficient Implementation of
DenseNets" (arXiv 1707.06990). What this costs is about what the memory saved would have cost to fetch.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import Bottleneck


class LeanInvertedResidual(InvertedResidual):
    """MobileNetV2's block; `conv` is a flat list of convolution, batch norm and activation, in turns."""

    def forward(self, images: Tensor) -> Tensor:
        first, *middle, last_norm = self.conv
        maps = first(images)
        for norm, activation, convolution in zip(middle[::3], middle[1::3], middle[2::3], strict=True):
            maps = norm_activation_convolution(maps, norm, activation, convolution)
        maps = last_norm(maps)
        return images + maps if self.use_res_connect else maps


class LeanBottleneck(Bottleneck):
    """ResNet-50's block."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv1(images)
        maps = norm_activation_convolution(maps, self.bn1, self.relu, self.conv2)
        maps = norm_activation_convolution(maps, self.bn2, self.relu, self.conv3)
        maps = self.bn3(maps)
        maps += images if self.downsample is None else self.downsample(images)
        return self.relu(maps)


def norm_activation_convolution(
    maps: Tensor, norm: nn.BatchNorm2d, activation: nn.ReLU | nn.ReLU6, convolution: nn.Conv2d
) -> Tensor:
    """convolution(activation(norm(maps))) [N, C, H, W]; in training on a CPU, only `maps` are kept for the backward
    pass. On GPUs, where this was never measured, it is the plain sequence."""
    if not (norm.training and torch.is_grad_enabled() and maps.device.type == "cpu"):
        return convolution(activation(norm(maps)))
    norm.num_batches_tracked.add_(1)
    weight = convolution.weight.to(maps.dtype)  # half precision under autocast
    return _NormActivationConvolution.apply(maps, norm.weight, norm.bias, weight, norm, activation, convolution)


class _NormActivationConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps, scale, shift, weight, norm, activation, convolution):
        ctx.norm_eps, ctx.activation, ctx.place = norm.eps, activation, _place(convolution)
        with torch.autocast(maps.device.type, enabled=False):
            normed, mean, inverse_deviation = torch.native_batch_norm(
                maps, scale, shift, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
            )
            result = torch.convolution(activation(normed), weight, None, *ctx.place)
        ctx.save_for_backward(maps, scale, shift, weight, mean, inverse_deviation)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        maps, scale, shift, weight, mean, inverse_deviation = ctx.saved_tensors
        variance = inverse_deviation.pow(-2) - ctx.norm_eps
        normed, _, _ = torch.native_batch_norm(maps, scale, shift, mean, variance, False, 0.0, ctx.norm_eps)
        active = ctx.activation(normed)
        gradient, weight_gradient, _ = torch.ops.aten.convolution_backward(
            gradient, active, weight, None, *ctx.place, [True, True, False]
        )
        if isinstance(ctx.activation, nn.ReLU6):
            gradient = torch.ops.aten.hardtanh_backward(gradient, active, 0.0, 6.0)
        else:
            gradient = torch.ops.aten.threshold_backward(gradient, active, 0.0)
        gradients = torch.ops.aten.native_batch_norm_backward(
            gradient, maps, scale, None, None, mean, inverse_deviation, True, ctx.norm_eps, [True, True, True]
        )
        return *gradients, weight_gradient, None, None, None


def _place(convolution: nn.Conv2d) -> tuple:
    """What `torch.convolution` and its backward want to know, after the tensors."""
    return (
        convolution.stride, convolution.padding, convolution.dilation, False, [0, 0], convolution.groups
    )  # fmt: skip
