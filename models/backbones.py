"""Glance and focus networks: torchvision's MobileNetV2 and ResNet-50, without their pooling and with published names.

Sources: MobileNetV2 (arXiv 1801.04381), ResNet (arXiv 1512.03385), https://github.com/pytorch/vision. The ImageNet
heads are never used by the forward pass; they keep their place in the state dict, so that published checkpoints load
strictly, but need no gradient.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import MobileNet_V2_Weights, MobileNetV2, ResNet, ResNet50_Weights
from torchvision.models.resnet import Bottleneck

GLANCE_CHECKPOINT = Path("ckpt") / "mobilenetv2_1.0-f2a8633.pth.tar"
GLANCE_ARCHITECTURES = ("mbv2", "res50")
STRIDE = 32  # pixels of a frame per cell of either network's feature map
IMAGENET_CLASSES = 1000


class WeightsError(Exception):
    """ImageNet weights that cannot be found or do not fit; the message names the places looked at."""


class MobileNetV2Backbone(MobileNetV2):
    """[N, 3, H, W] normalised frames -> [N, 1280, H / 32, W / 32] feature maps.

    torchvision nests each convolution with its batch norm (`features.2.conv.0.0`); the published names come from a
    flat list (`features.2.conv.0`), which is also the layout of the published ImageNet file.
    """

    feature_dim = 1280
    checkpoints_activations = False  # see `run_blocks`

    def __init__(self, **sizes: Any) -> None:
        """sizes: arguments of torchvision's `MobileNetV2`, for a network of other sizes than the published ones."""
        super().__init__(**sizes)
        for block in self.features[1:-1]:
            block.conv = nn.Sequential(*(layer for part in block.conv for layer in _flatten(part)))
        self.classifier = nn.Linear(self.feature_dim, IMAGENET_CLASSES).requires_grad_(False)

    def forward(self, frames: Tensor) -> Tensor:
        return run_blocks(self.features, frames, self.checkpoints_activations)

    @staticmethod
    def published_names(torchvision_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's state dict under the names used here; both list the same tensors in the same order."""
        return dict(zip(MobileNetV2Backbone().state_dict(), torchvision_state.values(), strict=True))


class ResNet50Backbone(ResNet):
    """[N, 3, H, W] normalised images -> [N, 2048, H / 32, W / 32] feature maps (rounded up)."""

    feature_dim = 2048
    checkpoints_activations = False  # see `run_blocks`

    def __init__(self) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=IMAGENET_CLASSES)
        self.fc.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        blocks = (*self.layer1, *self.layer2, *self.layer3, *self.layer4)
        return run_blocks(blocks, maps, self.checkpoints_activations)


def run_blocks(blocks: Iterable[nn.Module], maps: Tensor, checkpoints: bool) -> Tensor:
    """The maps [N, C, h, w] after all blocks; between them the shape changes.

    checkpoints: in training only the maps between blocks are kept for the backward pass, which computes what is inside
    a block a second time; after "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174).
    """
    for block in blocks:
        if checkpoints and block.training and torch.is_grad_enabled():
            # Under torch.compile, recomputation does not call the block again, and this context_fn is not supported.
            contexts = {} if torch.compiler.is_compiling() else {"context_fn": partial(_contexts, block)}
            # Nothing in a block is drawn at random.
            maps = checkpoint(block, maps, use_reentrant=False, preserve_rng_state=False, **contexts)
        else:
            maps = block(maps)
    return maps


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts for the forward pass and for the recomputation."""
    return nullcontext(), _buffers_set_aside(block)


@contextmanager
def _buffers_set_aside(block: nn.Module) -> Iterator[None]:
    """Let batch norms move copies of their running statistics and counters."""
    own = [(module, name, buffer) for module in block.modules() for name, buffer in module.named_buffers(recurse=False)]
    for module, name, buffer in own:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in own:
            setattr(module, name, buffer)


def _flatten(part: nn.Module) -> list[nn.Module]:
    return list(part) if isinstance(part, nn.Sequential) else [part]


def build_glance_network(arch: str) -> MobileNetV2Backbone | ResNet50Backbone:
    """The glance network called "mbv2" or "res50", with random weights."""
    if arch not in GLANCE_ARCHITECTURES:
        raise ValueError(f"unknown glance network {arch!r}: choose from {', '.join(GLANCE_ARCHITECTURES)}")
    return MobileNetV2Backbone() if arch == "mbv2" else ResNet50Backbone()


def build_focus_network() -> ResNet50Backbone:
    """The focus network, with random weights."""
    return ResNet50Backbone()


def load_imagenet_weights(
    glance: nn.Module, focus: ResNet50Backbone, glance_checkpoint: Path | None = None, directory: Path = Path()
) -> list[str]:
    """Fill both networks with ImageNet weights and say where each came from.

    glance_checkpoint: a file for the glance network; None looks for `GLANCE_CHECKPOINT` below `directory` where the
    network is a MobileNetV2, and then for torchvision's weights (torch hub's cache, else a download).
    Raises WeightsError when a file is missing or does not fit, or when torchvision's weights cannot be had.
    """
    if glance_checkpoint is None and isinstance(glance, MobileNetV2Backbone):
        published = directory / GLANCE_CHECKPOINT
        glance_checkpoint = published if published.is_file() else None
    if glance_checkpoint is not None:
        _load_file(glance, Path(glance_checkpoint))
        glance_source = str(glance_checkpoint)
    else:
        glance_source = _load_torchvision(glance, directory / GLANCE_CHECKPOINT)
    return [f"glance network: {glance_source}", f"focus network: {_load_torchvision(focus, None)}"]


def _load_file(network: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"glance weights {path} do not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers raise a dozen types on damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"glance weights {path} cannot be read: {reason}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    tensors = isinstance(state, dict) and {
        key.removeprefix("module."): value
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise WeightsError(f"glance weights {path} hold no tensors by name")
    if isinstance(network, MobileNetV2Backbone) and "features.1.conv.0.0.weight" in tensors:
        try:
            tensors = network.published_names(tensors)
        except ValueError as error:
            raise WeightsError(f"glance weights {path} are not all of torchvision's MobileNetV2") from error
    _check_and_load(network, tensors, str(path))


def _load_torchvision(network: nn.Module, published_place: Path | None) -> str:
    is_mobilenet = isinstance(network, MobileNetV2Backbone)
    weights = MobileNet_V2_Weights.IMAGENET1K_V1 if is_mobilenet else ResNet50_Weights.IMAGENET1K_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        places = f"{published_place} nor at {cached}" if published_place and is_mobilenet else f"{cached}"
        raise WeightsError(
            f"ImageNet weights of the {'glance' if published_place else 'focus'} network are not at {places}, and the "
            f"download failed ({error}); put the file there, or start from random weights with --pretrained none"
        ) from error
    _check_and_load(network, network.published_names(state) if is_mobilenet else state, weights.url)
    return f"torchvision {weights}"


def _check_and_load(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    own = network.state_dict()
    # ImageNet files older than PyTorch 0.4.1 have no batch counters; nothing reads them.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or wrong:
        raise WeightsError(
            f"{source} is not a checkpoint of this glance or focus network: "
            f"{len(missing)} tensors missing, {len(wrong)} of other shapes (first: {(missing + wrong)[0]})"
        )
    network.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)
