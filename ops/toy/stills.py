"""Stills to pretrain on, with the objects of the toy videos: mosaics of tiles that hold a badge or something else.

All sizes grow with `scale`, which is 1 for frames of 128 pixels and for patches of 64.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ops.data.dataset import worker_init
from ops.data.loaders import start_method
from ops.toy.dataset import ToySettings
from ops.toy.scene import CLASSES, PATTERNS, draw_disc, draw_side, moving_background, paste, to_pixels
from opts import TOY_DEFAULTS

FRAME_SIDE, PATCH_SIDE = TOY_DEFAULTS["input_size"], TOY_DEFAULTS["patch_size"]  # pixels, of scale 1
FRAME_HEIGHT = ToySettings().height  # badges have the sizes that they have in frames of this height, times the scale
CROWDED = 0.75  # share of tiles with a badge
THINNED, SPARSE = 0.4, 0.1  # later, from and to: hardly more than frames have
FOCUS_BATCH, GLANCE_BATCH = 32, 8
ALIKE_AT_A_GLANCE = ("rings", "checks")
_GREY = 0.15  # least share of tiles with a grey disc, about that of frames
_SHARING = 4  # stills with parts of the same background; batch norms must not see a batch of one

Stills = tuple[Tensor, Tensor]  # uint8 [N, 3, H, W], and the distribution over the classes wanted, [N, tiles, tiles, C]
# The stills of a step: by a generator that everything is drawn from, the share of the steps that lie behind, the number
# of classes and the scale.
Draw = Callable[[np.random.Generator, float, int, float], Stills]


def draw_stills(
    generator: np.random.Generator,
    count: int,
    tiles: int,
    classes: int,
    badges: float = CROWDED,
    at_a_glance: bool = False,
    scale: float = 1.0,
) -> Stills:
    """Stills of tiles x tiles squares.

    Args:
        generator: everything is drawn from it.
        count, tiles: how many stills, and of how many squares a side.
        classes: the badges are of the first ones.
        badges: the share of squares with a badge; somewhat fewer have a grey disc, maybe below the badge.
        at_a_glance: rings are not told from checks: the target is of either with the badge's colour.
        scale: of everything; mosaics have the size of frames of 128 times as many pixels a side, single tiles that of
            patches of 64 times as many.
    """
    side = round(scale * FRAME_SIDE) // max(tiles, 2)  # pixels: of a patch, or of a tile of the frame
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
            size = min(draw_side(generator, scale * FRAME_HEIGHT), side)
            x, y = generator.integers(side - size + 1, size=2)
            paste(stills[number], draw_disc(generator, *disc, size), column * side + x, row * side + y)
        if label >= 0:
            wanted = np.array([look == looks[label] for look in looks[:classes]])
            targets[number, row, column] = wanted / wanted.sum()
    return torch.from_numpy(to_pixels(stills)).permute(0, 3, 1, 2), torch.from_numpy(targets)


def crowded_mosaics(generator: np.random.Generator, share: float, classes: int, scale: float) -> Stills:
    """A batch for the glance network: of both sizes, so that what is around a badge does not matter."""
    return draw_stills(
        generator, GLANCE_BATCH, int(generator.choice((2, 4))), classes, at_a_glance=True, scale=scale
    )  # fmt: skip


def sparse_mosaics(generator: np.random.Generator, share: float, classes: int, scale: float) -> Stills:
    """A batch for the glance network, ever nearer to frames."""
    badges = THINNED + share * (SPARSE - THINNED)
    return draw_stills(generator, GLANCE_BATCH, 4, classes, badges, at_a_glance=True, scale=scale)


def single_tiles(generator: np.random.Generator, share: float, classes: int, scale: float) -> Stills:
    """A batch for the focus network."""
    return draw_stills(generator, FOCUS_BATCH, 1, classes, scale=scale)


def one_after_the_other(
    draw: Draw, steps: int, classes: int, scale: float, generator: np.random.Generator
) -> Iterator[Stills]:
    """The stills of all steps, each drawn when it is asked for."""
    return (draw(generator, step / steps, classes, scale) for step in range(steps))


def drawn_ahead(
    draw: Draw, steps: int, classes: int, scale: float, seed: tuple[int, ...], workers: int
) -> Iterable[Stills]:
    """The stills of all steps, drawn by other processes before they are asked for; others than `one_after_the_other`
    has, the same for any number of workers (0: drawn in this process)."""
    dataset = _Steps(draw, steps, classes, scale, seed)
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=worker_init,
        multiprocessing_context=start_method(workers),
    )


@dataclass(frozen=True)
class _Steps(Dataset):
    """Step -> its stills, from a generator of its own."""

    draw: Draw
    steps: int
    classes: int
    scale: float
    seed: tuple[int, ...]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Stills:
        generator = np.random.default_rng((*self.seed, step))
        return self.draw(generator, step / self.steps, self.classes, self.scale)
