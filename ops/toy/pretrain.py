"""What ImageNet is to real videos, for the toy ones: both backbones learn to see its badges on stills, in minutes.

    python -m ops.toy.pretrain                              # data/toy/pretrained_mbv2_12.pth.tar, as training makes it
    python main.py --dataset toy --init_from data/toy/pretrained_mbv2_12.pth.tar

The last line then reads

    done: FILE; new stills: glance network NN.N %, focus network NN.N %

The published recipe starts from ImageNet, and from random weights nothing is learned here in minutes. The stills have
the classes of the videos, whereas ImageNet's are not those of real videos: what is learned afterwards is when and where
to look, and how to put together what was seen. Each tile of a still holds a badge, or something else, which has the
uniform distribution as its target. The focus network sees single tiles and learns the classes. The glance network sees
mosaics with a label for every cell of its map, so that it knows where things are; towards the end these are nearly as
empty as frames. It learns to know all badges but rings from checks: for some videos a glance is enough and for
others it is not, as on real ones, however well the small network might do on these.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in ops/
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataset_config import get_dataset
from models.backbones import GLANCE_ARCHITECTURES, build_focus_network, build_glance_network
from models.uni_adafocus import IMAGENET_MEAN, IMAGENET_STD
from ops import checkpoint
from ops.inference_cpu import computes_in_bfloat16
from ops.toy.dataset import DEFAULT_FOLDER, ToySettings, make_toy_dataset
from ops.toy.scene import CLASSES, PATTERNS, draw_disc, draw_side, moving_background, paste, to_pixels
from ops.utils.checkpoint_file import PREFIX
from ops.utils.cores import available_cores
from ops.utils.errors import EXIT_DONE, UserError, run_entry
from ops.utils.processes import WorkerDied, run_jobs
from ops.video.opencv import prepare_worker
from opts import OneLineParser, whole

FOCUS_BATCH, GLANCE_BATCH = 32, 8
FOCUS_RATE, GLANCE_RATE, SPARSE_RATE = 0.0015, 0.003, 0.001
FRAME_HEIGHT = ToySettings().height  # badges have the sizes that they have in frames of this height
_CROWDED = 0.75  # share of tiles with a badge
_THINNED, _SPARSE = 0.4, 0.1  # later, from and to: hardly more than frames have
_GREY = 0.15  # least share of tiles with a grey disc, about that of frames
ALIKE_AT_A_GLANCE = ("rings", "checks")
_SHARING = 4  # stills with parts of the same background; batch norms must not see a batch of one


@dataclass(frozen=True)
class Steps:
    """How long the networks learn, and on how many stills they are tested."""

    focus: int = 340
    crowded: int = 800
    sparse: int = 200
    tested: int = 256


STEPS = Steps()
# Of each network and of its head, in the model.
PLACES = {"glance": ("global_CNN", "global_CNN_fc.1", "aux_fc"), "focus": ("local_CNN", "local_CNN_fc.1")}

Stills = tuple[Tensor, Tensor]  # uint8 [N, 3, H, W], and the distribution over the classes wanted, [N, tiles, tiles, C]
Weights = dict[str, np.ndarray]  # tensors would be shared with a process that has ended


def draw_stills(
    generator: np.random.Generator,
    count: int,
    tiles: int,
    classes: int,
    badges: float = _CROWDED,
    at_a_glance: bool = False,
) -> Stills:
    """Stills of tiles x tiles squares.

    Args:
        generator: everything is drawn from it.
        count, tiles: how many stills, and of how many squares a side.
        classes: the badges are of the first ones.
        badges: the share of squares with a badge; somewhat fewer have a grey disc, maybe below the badge.
        at_a_glance: rings are not told from checks: the target is of either with the badge's colour.
    """
    side = 128 // max(tiles, 2)  # pixels: of a patch, or of one or two cells of the glance map for a frame of 128
    looks = [(colour, None if at_a_glance and pattern in ALIKE_AT_A_GLANCE else pattern) for colour, pattern in CLASSES]
    labels = generator.integers(classes, size=(count, tiles, tiles))
    labels[generator.random(labels.shape) > badges] = -1
    targets = np.full((*labels.shape, classes), 1 / classes, np.float32)
    backgrounds = (
        moving_background(generator, _SHARING, tiles * side, tiles * side) for _ in range(-(-count // _SHARING))
    )
    stills = np.concatenate(list(backgrounds))[:count]
    for (number, row, column), label in np.ndenumerate(labels):
        grey = (None, PATTERNS[generator.integers(len(PATTERNS))])
        shown = [grey] if generator.random() < max(_GREY, 0.7 * badges) else []
        for disc in [*shown, *([CLASSES[label]] if label >= 0 else [])]:
            size = min(draw_side(generator, FRAME_HEIGHT), side)
            x, y = generator.integers(side - size + 1, size=2)
            paste(stills[number], draw_disc(generator, *disc, size), column * side + x, row * side + y)
        if label >= 0:
            wanted = np.array([look == looks[label] for look in looks[:classes]])
            targets[number, row, column] = wanted / wanted.sum()
    return torch.from_numpy(to_pixels(stills)).permute(0, 3, 1, 2), torch.from_numpy(targets)


def train(network: nn.Module, head: nn.Linear, draw: Callable[[], Stills], steps: int, rate: float, name: str) -> None:
    """Train a backbone and its head on stills, AdamW and one cosine. A tile without a badge has no class to name.

    Args:
        network, head: [N, 3, H, W] -> [N, D, h, w], and D -> classes.
        draw: the stills of a step, by the share of the steps that lie behind.
        steps, rate: how many, and the highest learning rate.
        name: for the lines that say how far it is.
    """
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], weight_decay=0.01, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 10, 0.5 * (1 + math.cos(math.pi * step / steps)))
        images, targets = draw(step / steps)
        logits = tile_logits(network, head, images, targets.shape[1])
        loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten(0, -2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            print(f"{name}: step {step + 1} of {steps}, loss {float(loss.detach()):.3f}", flush=True)


def tile_logits(network: nn.Module, head: nn.Linear, images: Tensor, tiles: int) -> Tensor:
    """uint8 [N, 3, H, W] -> logits [N, tiles, tiles, C]."""
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.autocast("cpu", torch.bfloat16, enabled=network.training and computes_in_bfloat16()):
        maps = network((images - mean) / std).float()
    return head(F.adaptive_avg_pool2d(maps, tiles).permute(0, 2, 3, 1))


@torch.no_grad()
def accuracy(network: nn.Module, head: nn.Linear, stills: Stills) -> float:
    """Of the badges, in percent: how many are named as one of the classes that are wanted."""
    images, targets = stills
    found = tile_logits(network.eval(), head, images, targets.shape[1]).argmax(-1, keepdim=True)
    wanted = targets.gather(-1, found)[..., 0] > targets.amin(-1)
    return 100 * float(wanted[targets.amax(-1) > targets.amin(-1)].float().mean())


def file_in(data_dir: Path, num_classes: int, glance_arch: str) -> Path:
    """Where the checkpoint is kept, beside the videos."""
    return data_dir / f"pretrained_{glance_arch}_{num_classes}.pth.tar"


def pretrain(path: Path, num_classes: int, glance_arch: str = "mbv2", seed: int = 0) -> tuple[float, float]:
    """Write a checkpoint for `--init_from` with both backbones and their heads; returns the accuracies on new stills,
    percent, of the glance and of the focus network. Both learn at the same time, each on its share of the cores.

    Raises UserError where the file cannot be written or one of the two dies.
    """
    workers = min(2, available_cores())
    threads = max(1, torch.get_num_threads() // workers)
    jobs = [(part, num_classes, glance_arch, seed, STEPS, threads) for part in ("glance", "focus")]
    state, found = {}, {}
    for (part, *_), result in run_jobs(learn, jobs, workers, lambda amount: None, prepare_worker):
        if isinstance(result, WorkerDied):
            raise UserError(f"pretraining the {part} network: {result}; there may be too little memory")
        found[part], weights = result
        state |= {name: torch.from_numpy(value) for name, value in weights.items()}
    checkpoint.save({"state_dict": state}, path)
    return found["glance"], found["focus"]


def learn(job: tuple[str, int, str, int, Steps, int], report: Callable[[int], None]) -> tuple[float, Weights]:
    """Pretrain the "glance" or the "focus" network: its accuracy on new stills, and the weights of it and its head by
    their names in the checkpoint.

    job: which of them, number of classes, the glance network's architecture, seed, how long, number of threads.
    """
    part, num_classes, glance_arch, seed, steps, threads = job
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    generator, test = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    network = build_glance_network(glance_arch) if part == "glance" else build_focus_network()
    head = nn.Linear(network.feature_dim, num_classes)

    def crowded_stills(share: float) -> Stills:  # of both sizes, so that what is around a badge does not matter
        return draw_stills(generator, GLANCE_BATCH, int(generator.choice((2, 4))), num_classes, at_a_glance=True)

    def sparse_stills(share: float) -> Stills:
        badges = _THINNED + share * (_SPARSE - _THINNED)
        return draw_stills(generator, GLANCE_BATCH, 4, num_classes, badges, at_a_glance=True)

    def single_tiles(share: float) -> Stills:
        return draw_stills(generator, FOCUS_BATCH, 1, num_classes)

    if part == "glance":
        train(network, head, crowded_stills, steps.crowded, GLANCE_RATE, "glance network")
        # With its own small rate: batch norms get used to frames, and what was learned stays.
        train(network, head, sparse_stills, steps.sparse, SPARSE_RATE, "glance network, sparse stills")
        shown = draw_stills(test, steps.tested, 4, num_classes, _SPARSE, at_a_glance=True)
    else:
        for block in network.modules():
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.bn3.weight)  # each begins as the identity, or hundreds of steps pass in vain
        train(network, head, single_tiles, steps.focus, FOCUS_RATE, "focus network")
        shown = draw_stills(test, steps.tested, 1, num_classes)
    weights = {
        f"{PREFIX}{place}.{key}": value.contiguous().numpy()
        for place, module in zip(PLACES[part], (network, head, head), strict=False)
        for key, value in module.state_dict().items()
    }
    return accuracy(network, head, shown), weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the checkpoint of the command line, over an earlier one; returns the exit code."""
    parser = OneLineParser(description="Pretrain both backbones on stills of the toy data set's objects.")
    parser.add_argument("--data_dir", type=Path, default=DEFAULT_FOLDER, help="of the videos (default: data/toy)")
    parser.add_argument("--glance_arch", choices=GLANCE_ARCHITECTURES, default=GLANCE_ARCHITECTURES[0])
    parser.add_argument("--seed", type=whole(0), default=0, help="default: 0")
    given = parser.parse_args(arguments)
    make_toy_dataset(given.data_dir, workers=available_cores())
    num_classes = get_dataset("toy", given.data_dir).num_classes
    path = file_in(given.data_dir, num_classes, given.glance_arch)
    glance, focus = pretrain(path, num_classes, given.glance_arch, given.seed)
    print(f"done: {path}; new stills: glance network {glance:.1f} %, focus network {focus:.1f} %")
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
