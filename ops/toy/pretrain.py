"""What ImageNet is to real videos, for the toy ones: both backbones learn to see its badges on stills, in minutes.

    python -m ops.toy.pretrain                              # data/toy/pretrained_mbv2_12.pth.tar, as training makes it
    python -m ops.toy.pretrain --input_size 224 --patch_size 128        # data/toy/pretrained_mbv2_12_224_128.pth.tar
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

Stills are as large as the model's frames and patches. On CPUs the two networks learn side by side; a GPU has them one
after the other, and processes that draw their stills ahead.
"""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
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
from ops.toy.dataset import DEFAULT_FOLDER, make_toy_dataset
from ops.toy.stills import (
    FRAME_SIDE,
    PATCH_SIDE,
    SPARSE,
    Draw,
    Stills,
    crowded_mosaics,
    draw_stills,
    drawn_ahead,
    one_after_the_other,
    single_tiles,
    sparse_mosaics,
)
from ops.utils.checkpoint_file import PREFIX
from ops.utils.cores import available_cores
from ops.utils.errors import EXIT_DONE, UserError, run_entry
from ops.utils.processes import WorkerDied, run_jobs
from ops.video.opencv import prepare_worker
from opts import OneLineParser, add_size_options, check_sizes, whole

FOCUS_RATE, GLANCE_RATE, SPARSE_RATE = 0.0015, 0.003, 0.001
TESTED_AT_ONCE = 64  # stills; 64 mosaics of 224 need about a gigabyte
_NORMALISATION = (IMAGENET_MEAN, IMAGENET_STD)  # of levels from 0 to 1
DRAWN = (crowded_mosaics, sparse_mosaics, single_tiles)
DRAWING = 8  # processes at most that draw for a GPU: more than keep it busy


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

Weights = dict[str, np.ndarray]  # tensors would be shared with a process that has ended


@dataclass(frozen=True)
class Job:
    """The "glance" or the "focus" network, and how it is to be pretrained."""

    part: str
    num_classes: int
    glance_arch: str
    scale: float  # of the stills
    seed: int
    steps: Steps
    threads: int
    device: torch.device


def train(network: nn.Module, head: nn.Linear, stills: Iterable[Stills], steps: int, rate: float, name: str) -> None:
    """Train a backbone and its head on stills, AdamW and one cosine. A tile without a badge has no class to name.

    Args:
        network, head: [N, 3, H, W] -> [N, D, h, w], and D -> classes.
        stills: of each step.
        steps, rate: how many, and the highest learning rate.
        name: for the lines that say how far it is.
    """
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], weight_decay=0.01, fused=True)
    for step, (images, targets) in enumerate(stills):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 10, 0.5 * (1 + math.cos(math.pi * step / steps)))
        logits = tile_logits(network, head, images, targets.shape[1])
        loss = F.cross_entropy(logits.flatten(0, -2), targets.to(logits.device).flatten(0, -2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            print(f"{name}: step {step + 1} of {steps}, loss {float(loss.detach()):.3f}", flush=True)


def tile_logits(network: nn.Module, head: nn.Linear, images: Tensor, tiles: int) -> Tensor:
    """uint8 [N, 3, H, W], on any device -> logits [N, tiles, tiles, C], where the head is."""
    images = images.to(head.weight.device)
    mean, std = (255 * torch.tensor(each, device=images.device).view(3, 1, 1) for each in _NORMALISATION)
    in_half = network.training and images.device.type == "cpu" and computes_in_bfloat16()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=in_half):
        maps = network((images - mean) / std).float()
    return head(means_of_tiles(maps, tiles).permute(0, 2, 3, 1))


def means_of_tiles(maps: Tensor, tiles: int) -> Tensor:
    """The means of tiles x tiles equal squares of maps: [N, D, h, w] -> [N, D, tiles, tiles]. A cell that lies in
    several of them counts in each with the share that lies in it."""
    if maps.shape[-1] % tiles:  # adaptive pooling would count it in full in each
        maps = maps.repeat_interleave(tiles, -1).repeat_interleave(tiles, -2)
    return F.adaptive_avg_pool2d(maps, tiles)


@torch.no_grad()
def accuracy(network: nn.Module, head: nn.Linear, stills: Stills) -> float:
    """Of the badges, in percent: how many are named as one of the classes that are wanted."""
    images, targets = stills
    network.eval()
    logits = [tile_logits(network, head, part, targets.shape[1]).cpu() for part in images.split(TESTED_AT_ONCE)]
    found = torch.cat(logits).argmax(-1, keepdim=True)
    wanted = targets.gather(-1, found)[..., 0] > targets.amin(-1)
    return 100 * float(wanted[targets.amax(-1) > targets.amin(-1)].float().mean())


def file_in(
    data_dir: Path, num_classes: int, glance_arch: str, input_size: int = FRAME_SIDE, patch_size: int = PATCH_SIDE
) -> Path:
    """Where the checkpoint is kept, beside the videos; sizes that are not those of --dataset toy are in its name."""
    sizes = "" if (input_size, patch_size) == (FRAME_SIDE, PATCH_SIDE) else f"_{input_size}_{patch_size}"
    return data_dir / f"pretrained_{glance_arch}_{num_classes}{sizes}.pth.tar"


def pretrain(
    path: Path,
    num_classes: int,
    glance_arch: str = "mbv2",
    input_size: int = FRAME_SIDE,
    patch_size: int = PATCH_SIDE,
    seed: int = 0,
) -> tuple[float, float]:
    """Write a checkpoint for `--init_from` with both backbones and their heads; returns the accuracies on new stills,
    percent, of the glance and of the focus network. On CPUs both learn at the same time, each on its share of the
    cores.

    input_size, patch_size: sides of the model's frames and patches, pixels.
    Raises UserError where the file cannot be written or one of the two dies.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # A GPU is used by this process, which may have begun to; processes of run_jobs could start none to draw for it.
    workers = 1 if device.type == "cuda" else min(2, available_cores())
    threads = max(1, torch.get_num_threads() // workers)
    scales = {"glance": input_size / FRAME_SIDE, "focus": patch_size / PATCH_SIDE}
    jobs = [Job(part, num_classes, glance_arch, scale, seed, STEPS, threads, device) for part, scale in scales.items()]
    state, found = {}, {}
    for job, result in run_jobs(learn, jobs, workers, lambda amount: None, prepare_worker):
        if isinstance(result, WorkerDied):
            raise UserError(f"pretraining the {job.part} network: {result}; there may be too little memory")
        found[job.part], weights = result
        state |= {name: torch.from_numpy(value) for name, value in weights.items()}
    checkpoint.save({"state_dict": state}, path)
    return found["glance"], found["focus"]


def learn(job: Job, report: Callable[[int], None]) -> tuple[float, Weights]:
    """Pretrain a network: its accuracy on new stills, and the weights of it and its head by their names in the
    checkpoint."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    generator, test = np.random.default_rng((job.seed, 0)), np.random.default_rng((job.seed, 1))
    network = build_glance_network(job.glance_arch) if job.part == "glance" else build_focus_network()
    head = nn.Linear(network.feature_dim, job.num_classes).to(job.device)
    network.to(job.device)
    stills = partial(stills_of_steps, job, generator)

    if job.part == "glance":
        steps = job.steps.crowded
        train(network, head, stills(crowded_mosaics, steps), steps, GLANCE_RATE, "glance network")
        # With its own small rate: batch norms get used to frames, and what was learned stays.
        steps = job.steps.sparse
        train(network, head, stills(sparse_mosaics, steps), steps, SPARSE_RATE, "glance network, sparse stills")
        shown = draw_stills(test, job.steps.tested, 4, job.num_classes, SPARSE, at_a_glance=True, scale=job.scale)
    else:
        for block in network.modules():
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.bn3.weight)  # each begins as the identity, or hundreds of steps pass in vain
        steps = job.steps.focus
        train(network, head, stills(single_tiles, steps), steps, FOCUS_RATE, "focus network")
        shown = draw_stills(test, job.steps.tested, 1, job.num_classes, scale=job.scale)
    weights = {
        f"{PREFIX}{place}.{key}": value.cpu().contiguous().numpy()
        for place, module in zip(PLACES[job.part], (network, head, head), strict=False)
        for key, value in module.state_dict().items()
    }
    return accuracy(network, head, shown), weights


def stills_of_steps(job: Job, generator: np.random.Generator, draw: Draw, steps: int) -> Iterable[Stills]:
    """What a network learns on: from the generator, or for a GPU, which would wait for one process, by several."""
    if job.device.type == "cpu":
        return one_after_the_other(draw, steps, job.num_classes, job.scale, generator)
    workers = min(available_cores() - 1, DRAWING)
    seed = (job.seed, 2, DRAWN.index(draw))  # (seed, 1) is of the stills of the test
    return drawn_ahead(draw, steps, job.num_classes, job.scale, seed, workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the checkpoint of the command line, over an earlier one; returns the exit code."""
    parser = OneLineParser(description="Pretrain both backbones on stills of the toy dataset's objects.")
    parser.add_argument("--data_dir", type=Path, default=DEFAULT_FOLDER, help="of the videos (default: data/toy)")
    parser.add_argument("--glance_arch", choices=GLANCE_ARCHITECTURES, default=GLANCE_ARCHITECTURES[0])
    parser.add_argument("--seed", type=whole(0), default=0, help="default: 0")
    add_size_options(parser, FRAME_SIDE, PATCH_SIDE)
    given = parser.parse_args(arguments)
    check_sizes(parser, given.input_size, given.patch_size)
    make_toy_dataset(given.data_dir, workers=available_cores())
    num_classes = get_dataset("toy", given.data_dir).num_classes
    kind = num_classes, given.glance_arch, given.input_size, given.patch_size
    path = file_in(given.data_dir, *kind)
    glance, focus = pretrain(path, *kind, given.seed)
    print(f"done: {path}; new stills: glance network {glance:.1f} %, focus network {focus:.1f} %")
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
