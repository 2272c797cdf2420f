"""A faster copy of the network for inference, equal to the original up to rounding.

In evaluation batch norm is a fixed scale and shift, so it is fused into the convolution before it, together with the
activation after it. Two more things help on an x86 CPU. oneDNN, PyTorch's library for convolutions there, wants weights
in a layout of its own; by default they are converted in every call, which for a single patch takes as long as the
convolution itself. And images are processed in groups that fit into the processor's caches, each on one core. On a GPU,
cuDNN adds bias and shortcut and applies ReLU while it writes the convolution; elsewhere each is a pass of its own.

In half precision only the two backbones compute with fewer digits; their feature maps are converted back to float32, so
policies, classifier and metrics are unchanged.
"""

import contextlib
import copy
import math
import operator
import platform
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.uni_adafocus import UniAdaFocus
from ops.inference_cpu import side_by_side
from ops.utils.errors import UserError

PIXELS_AT_ONCE = 4 * 224 * 224  # of a group of images on a CPU; more of them no longer fit into the caches
FEWEST_IMAGES = 2  # of a group on a core of its own; of single images, Python's part of the work is too large
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ON_X86 = platform.machine() in ("x86_64", "AMD64")
HAS_CUDNN = torch.backends.cudnn.is_available() and torch.version.hip is None
CUDNN_DTYPES = (torch.float32, torch.float16)  # in which it was tried to fuse
ONEDNN_ACTIVATIONS: dict[type[nn.Module] | None, tuple] = {
    None: ("none", [], ""),
    nn.ReLU: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
}
CONVOLUTIONS: dict[type[nn.Module], tuple] = {  # the operation, what packs its weights, and their layout
    nn.Conv2d: (F.conv2d, "mkldnn_reorder_conv2d_weight", torch.channels_last),
    nn.Conv3d: (F.conv3d, "mkldnn_reorder_conv3d_weight", torch.contiguous_format),
}


def prepare_for_inference(model: UniAdaFocus, precision: str = "float32", compiled: bool = False) -> UniAdaFocus:
    """A copy of `model`, in evaluation mode, with fused backbones and spatial policy and the same interface.

    It shares everything else with `model`; later changes of those three networks' weights do not reach it.
    precision: one of `PRECISIONS`, in which the backbones compute; see `check_precision`. compiled: by torch.compile,
    when they first run; see `ops.setup`. At the published sizes the copy takes 0.3 s and, in float32, 110 MB,
    on a CPU two or three times that once it has run. Raises ValueError for a model in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode; call eval() first")
    prepared = copy.copy(model)
    prepared._modules = model._modules.copy()
    prepared.global_CNN = InferenceNetwork(model.global_CNN, PRECISIONS[precision], compiled)
    prepared.local_CNN = InferenceNetwork(model.local_CNN, PRECISIONS[precision], compiled)
    prepared.spatial_policy = folded(model.spatial_policy)
    return prepared


def gpu_has_bfloat16(device: torch.device) -> bool:
    """Whether the GPU computes in bfloat16, rather than that PyTorch imitates it."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def check_precision(precision: str, device: torch.device) -> None:
    """Raise UserError where the backbones cannot compute in this precision, one of `PRECISIONS`, on the device."""
    if precision == "float32":
        return
    if device.type == "cuda":
        if precision == "bfloat16" and not gpu_has_bfloat16(device):
            raise UserError("this GPU has no bfloat16 (they do from Ampere on): take float16, or leave it out")
        return
    if precision == "float16":
        raise UserError(
            "--eval_precision float16 is for GPUs, and this run is on a CPU: take bfloat16, or leave it out"
        )
    if ON_X86 and not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        raise UserError("--eval_precision bfloat16 needs a GPU or a CPU with AVX-512: leave it out")


@contextlib.contextmanager
def float32_convolutions() -> Iterator[None]:
    """Turn TF32 off for convolutions on a GPU: its rounding depends on the batch size and could move a video's exit."""
    # Where one of PyTorch's interfaces (the other is from 2.9 on) has been used, the other refuses to be read.
    places, name, off = [torch.backends.cudnn], "allow_tf32", False
    if hasattr(torch.backends.cudnn, "conv"):
        # The older one can be read within the block, as PyTorch does, only where these are alike.
        places, name, off = [torch.backends.cudnn.conv, torch.backends.cudnn.rnn], "fp32_precision", "ieee"
    before = [getattr(place, name) for place in places]
    for place in places:
        setattr(place, name, off)
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)


class InferenceNetwork(nn.Module):
    """A backbone in evaluation mode: images float32 [N, 3, H, W] -> the feature maps that `backbone` gives, float32.

    dtype: in which it computes; compiled: by torch.compile.
    """

    def __init__(self, backbone: nn.Module, dtype: torch.dtype = torch.float32, compiled: bool = False) -> None:
        super().__init__()
        self.feature_dim, self.dtype = backbone.feature_dim, dtype
        self.network = folded(backbone).to(dtype)
        self.splits = ON_X86 and not compiled
        if compiled:
            self.network.compile()

    def forward(self, images: Tensor) -> Tensor:
        threads, number = torch.get_num_threads(), len(images)
        if images.device.type != "cpu" or number < 2:
            return self._maps(images)
        at_once = max(1, PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))
        if threads > 1 and self.splits:
            cores = min(threads, number // FEWEST_IMAGES)
            if number >= threads and cores > 1:
                turns = math.ceil(number / (cores * at_once))
                groups = images.split(math.ceil(number / (cores * turns)))  # as many for one core as for another
                return torch.cat(side_by_side(self._maps, groups))
            at_once = 1  # all cores on each; see `FoldedConvolution`
        return torch.cat([self._maps(group) for group in images.split(at_once)])

    def _maps(self, images: Tensor) -> Tensor:
        return self.network(images.to(self.dtype, memory_format=torch.channels_last)).float()


def folded(network: nn.Module) -> torch.fx.GraphModule:
    """A copy of the network in which each convolution holds what follows it: its batch norm, and an activation, which
    may come after the addition of a shortcut."""
    traced = torch.fx.symbolic_trace(network)
    modules = dict(traced.named_modules())

    def module_of(node: torch.fx.Node | None) -> nn.Module | None:
        return modules[node.target] if node is not None and node.op == "call_module" else None

    for batch_norm in list(traced.graph.nodes):
        if not isinstance(module_of(batch_norm), (nn.BatchNorm2d, nn.BatchNorm3d)):
            continue
        convolution, addition, last = batch_norm.args[0], None, _only_user(batch_norm)
        if last is not None and last.target in (operator.add, operator.iadd) and last.args[0] is batch_norm:
            addition, last = last, _only_user(last)
        parts, inputs, activation = [convolution, batch_norm], convolution.args, None
        if isinstance(module_of(last), (nn.ReLU, nn.ReLU6)):
            activation = type(module_of(last))
            parts += [last] if addition is None else [addition, last]
            inputs += () if addition is None else addition.args[1:]
        parent, _, name = convolution.target.rpartition(".")
        whole = FoldedConvolution(module_of(convolution), module_of(batch_norm), activation)
        setattr(traced.get_submodule(parent), name, whole)
        with traced.graph.inserting_before(parts[-1]):
            call = traced.graph.call_module(convolution.target, inputs)
        parts[-1].replace_all_uses_with(call)
        for part in reversed(parts):
            traced.graph.erase_node(part)
    traced.delete_all_unused_submodules()
    traced.recompile()
    convolutions = [module for module in traced.modules() if isinstance(module, FoldedConvolution)]
    is_finite = bool(
        torch.stack([each.bias.isfinite().all() & each.weight.isfinite().all() for each in convolutions]).all()
    )
    for each in convolutions:
        each.may_fuse = is_finite
    return traced


def _only_user(node: torch.fx.Node) -> torch.fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


class FoldedConvolution(nn.Module):
    """A 2D or 3D convolution, batch norm and activation (nn.ReLU, nn.ReLU6 or None) as one operation.

    Which layout of the weights suits oneDNN depends on the number of threads and, with several threads, of images. In
    another layout some convolutions take up to 200 times as long. So weights are packed for one thread, which suits any
    number of images, and for single images on several threads; for several images on several threads they are converted
    in every call.
    """

    def __init__(
        self,
        convolution: nn.Conv2d | nn.Conv3d,
        batch_norm: nn.BatchNorm2d | nn.BatchNorm3d,
        activation: type[nn.Module] | None,
    ) -> None:
        super().__init__()
        whole = fuse_conv_bn_eval(convolution, batch_norm)
        self.convolve, reorder, layout = CONVOLUTIONS[type(convolution)]
        self.reorder = getattr(torch._C._nn, reorder, None)
        weight = whole.weight.detach().contiguous(memory_format=layout)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", whole.bias.detach(), persistent=False)
        self.place = (whole.padding, whole.stride, whole.dilation, whole.groups)
        self.kind, self.activation = activation, activation(inplace=True) if activation else None
        # The libraries' own activations may turn nan into 0, which would hide that a network has diverged.
        self.may_fuse = True
        # cuDNN's depthwise convolutions take several times as long with an activation as without.
        self.suits_cudnn = HAS_CUDNN and weight.dim() == 4 and whole.groups == 1 and activation is not None
        self.packed: dict[int, Tensor] = {}  # by the number of threads

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle has: it packs the weights for itself, as oneDNN's cannot be copied."""
        return self.__dict__ | {"packed": {}}

    def forward(self, images: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """images [N, D, ...]; shortcut: of the result's shape, added before the activation."""
        if self.may_fuse and not torch.compiler.is_compiling():
            if images.device.type == "cpu" and onednn_packs():
                threads = torch.get_num_threads()
                if threads == 1 or len(images) == 1:
                    return self._by_onednn(images, shortcut, threads)
            elif self.suits_cudnn and cudnn_fuses(images):
                return self._by_cudnn(images, shortcut)
        padding, stride, dilation, groups = self.place
        return self._end(self.convolve(images, self.weight, self.bias, stride, padding, dilation, groups), shortcut)

    def _end(self, result: Tensor, shortcut: Tensor | None) -> Tensor:
        """What comes after the convolution, in place."""
        if shortcut is not None:
            result += shortcut
        return result if self.activation is None else self.activation(result)

    def _by_onednn(self, images: Tensor, shortcut: Tensor | None, threads: int) -> Tensor:
        if threads not in self.packed:
            shape = [images.shape] if images.dim() == 4 else []  # optional, and in 3D a later addition
            self.packed[threads] = self.reorder(self.weight.to_mkldnn(), *self.place, *shape)
        kind = self.kind if shortcut is None else None
        result = torch.ops.mkldnn._convolution_pointwise(
            images, self.packed[threads], self.bias, *self.place, *ONEDNN_ACTIVATIONS[kind]
        )
        return result if shortcut is None else self._end(result, shortcut)

    def _by_cudnn(self, images: Tensor, shortcut: Tensor | None) -> Tensor:
        padding, stride, dilation, groups = self.place
        how = (self.bias, stride, padding, dilation, groups)
        if shortcut is None:
            result = torch.cudnn_convolution_relu(images, self.weight, *how)
        else:
            result = torch.cudnn_convolution_add_relu(images, self.weight, shortcut, 1.0, *how)
        return result.clamp_(max=6) if self.kind is nn.ReLU6 else result


def cudnn_fuses(images: Tensor) -> bool:
    """Whether the images are where, and of a type in which, cuDNN is to compute convolutions with what follows them."""
    return images.device.type == "cuda" and images.dtype in CUDNN_DTYPES and torch.backends.cudnn.enabled


def onednn_packs() -> bool:
    """Whether this PyTorch has the operations that `torch.compile` packs weights with: they are not public."""
    return (
        ON_X86
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch._C._nn, reorder) for _, reorder, _ in CONVOLUTIONS.values())
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )
