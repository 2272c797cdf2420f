"""Which frames of a video, which part of each, and the resizing: training and evaluation side by side.

The recipe is TSN's (arXiv 1608.00859), which Uni-AdaFocus trains with: one frame per segment, multi-scale crops at
fixed places, bilinear resizing with Pillow's antialiasing. `pillow_clip` is the recipe word for word; `fast_clip` gives
the same pixels to within one grey level, quicker. (In white noise, a few values in 10^9 are two levels away.)

A view says how one frame becomes its part of the clip: cut `box` out of the frame, resize it to `size`, keep the
input_size x input_size square at `corner`. All pixel positions are (x, y) from the top left corner.
"""

from collections.abc import Callable, Iterable
from itertools import groupby, islice
from math import gcd
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

CROP_SCALES = (1.0, 0.875, 0.75, 0.66)  # of the short side
MAX_SCALE_STEPS = 1  # between the scale of the width and that of the height
# In quarters of the free space: 4 corners, centre, 4 edge middles, 4 quarter points.
CROP_PLACES = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)
_SCALE_PAIRS = tuple(
    (width, height)
    for height in range(len(CROP_SCALES))
    for width in range(len(CROP_SCALES))
    if abs(height - width) <= MAX_SCALE_STEPS
)
_SNAP = 3  # a crop side this close to the input size becomes the input size, which saves resizing
# Beyond either, a few values in 10^9 of white noise were found two levels away.
_RARE_HALVES = 30_000
_MANY_TAPS = 1.5  # reduced this much, a pixel mixes four rows or more
_GROUP = 4  # frames per resize: enough to share its set-up, few enough to stay in the processor's cache


class View(NamedTuple):
    """How one frame becomes its square: box (left, top, right, bottom), size (width, height), corner (x, y)."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    corner: tuple[int, int]


class CropChoice(NamedTuple):
    """One video's training crop, drawn before any frame is read, so that it holds for frames of any size."""

    scales: tuple[int, int]  # places in CROP_SCALES, for the width and the height
    place: tuple[int, int]  # in quarters of the free width and height
    flip: bool


ViewOf = Callable[[int, int], View]  # (frame width, frame height) -> View


def training_frames(*, num_frames: int, num_segments: int, generator: np.random.Generator) -> np.ndarray:
    """One uniformly random frame in each of the equal segments: int64 [num_segments], 1..num_frames, ascending."""
    return _frames_at(generator.random(num_segments), num_frames)


def evaluation_frames(*, num_frames: int, num_segments: int) -> np.ndarray:
    """The frame in the middle of each of the equal segments: int64 [num_segments], 1..num_frames, ascending."""
    return _frames_at(np.full(num_segments, 0.5), num_frames)


def training_crop(*, generator: np.random.Generator) -> CropChoice:
    """Draw one of the scale pairs, one of the 13 places and the flip, each uniformly."""
    return CropChoice(
        scales=_SCALE_PAIRS[generator.integers(len(_SCALE_PAIRS))],
        place=CROP_PLACES[generator.integers(len(CROP_PLACES))],
        flip=bool(generator.random() < 0.5),
    )


def training_labels(labels: np.ndarray, *, generator: np.random.Generator) -> np.ndarray:
    """Draw uniformly which label comes first: int64 [3] padded with -1 -> the same, the others in their order."""
    first = generator.integers((labels >= 0).sum())
    return np.concatenate([labels[first : first + 1], np.delete(labels, first)])


def training_view(width: int, height: int, *, input_size: int, choice: CropChoice) -> View:
    """The chosen crop of a width x height frame, resized to the input size; it never leaves the frame."""
    sides = [int(min(width, height) * scale) for scale in CROP_SCALES]
    sides = [input_size if abs(side - input_size) < _SNAP else side for side in sides]
    crop_width = max(1, min(sides[choice.scales[0]], width))
    crop_height = max(1, min(sides[choice.scales[1]], height))
    left = choice.place[0] * ((width - crop_width) // 4)
    top = choice.place[1] * ((height - crop_height) // 4)
    return View((left, top, left + crop_width, top + crop_height), (input_size, input_size), (0, 0))


def evaluation_view(width: int, height: int, *, input_size: int) -> View:
    """The whole frame with its short side resized to 256 / 224 of the input size, then the centre square."""
    short = round(input_size * 256 / 224)
    if width < height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    corner = (round((size[0] - input_size) / 2), round((size[1] - input_size) / 2))
    return View((0, 0, width, height), size, corner)


def pillow_clip(frames: Iterable[Image.Image], *, input_size: int, view_of: ViewOf, flip: bool = False) -> Tensor:
    """The exact recipe, frame by frame, with Pillow: the reference that `fast_clip` is held to.

    Returns uint8 RGB [T, 3, input_size, input_size], a view of a contiguous [T, H, W, 3].
    """
    rows = []
    for frame in frames:
        view = view_of(*frame.size)
        x, y = view.corner
        part = frame.crop(view.box).resize(view.size, Image.Resampling.BILINEAR)
        part = part.crop((x, y, x + input_size, y + input_size))
        rows.append(np.asarray(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else part))
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


def fast_clip(
    frames: Iterable[np.ndarray], *, num_frames: int, input_size: int, view_of: ViewOf, flip: bool = False
) -> Tensor:
    """The same clip as `pillow_clip`, to within one grey level.

    frames: `num_frames` times uint8 RGB [H, W, 3], consumed one by one; their sizes may differ. Returns uint8 RGB
    [num_frames, 3, input_size, input_size], a view of a contiguous [T, H, W, 3].
    """
    clip = np.empty((num_frames, input_size, input_size, 3), np.uint8)
    filled = 0
    for (height, width), alike in groupby(frames, key=lambda frame: frame.shape[:2]):
        view = without_unused_pixels(view_of(width, height), input_size=input_size)
        left, top, right, bottom = view.box
        x, y = view.corner
        parts = np.empty((_GROUP, bottom - top, right - left, 3), np.uint8)
        # Copying each part out at once lets the next frame be decoded into the same, still cached memory.
        while count := _copy_into(parts, (frame[top:bottom, left:right] for frame in islice(alike, _GROUP))):
            for square in _resize(parts[:count], view.size)[:, y : y + input_size, x : x + input_size]:
                if flip:
                    cv2.flip(square, 1, dst=clip[filled])
                else:
                    clip[filled] = square
                filled += 1
    return torch.from_numpy(clip).permute(0, 3, 1, 2)


def without_unused_pixels(view: View, *, input_size: int) -> View:
    """The same square of pixels from as small a box as gives exactly the same resampling weights.

    A box may shrink to source pixels that fall on whole output pixels, plus the filter's reach: for 640 x 360 frames in
    evaluation from all 640 x 360 to 384 x 360 pixels, and for 340 x 256 to the 224 x 224 themselves.
    """
    left, right, out_left, out_right = _shrink(view.box[0], view.box[2], view.size[0], view.corner[0], input_size)
    top, bottom, out_top, out_bottom = _shrink(view.box[1], view.box[3], view.size[1], view.corner[1], input_size)
    return View(
        box=(left, top, right, bottom),
        size=(out_right - out_left, out_bottom - out_top),
        corner=(view.corner[0] - out_left, view.corner[1] - out_top),
    )


def _shrink(start: int, stop: int, size: int, corner: int, input_size: int) -> tuple[int, int, int, int]:
    """Along one axis: source start and stop, and the output range [0, size] that they cover."""
    source = stop - start
    steps = gcd(source, size)  # source and output pixels coincide at this many places
    in_step, out_step = source // steps, size // steps
    # The filter reaches max(1, scale) source pixels, which is max(1, 1 / scale) output pixels; unscaled, it has none.
    reach = 0 if source == size else max(1, -(-size // source))
    first = max(0, (corner - reach) // out_step)
    last = min(steps, -(-(corner + input_size + reach) // out_step))
    return start + first * in_step, start + last * in_step, first * out_step, last * out_step


def _copy_into(rows: np.ndarray, parts: Iterable[np.ndarray]) -> int:
    count = 0
    for part in parts:
        rows[count] = part
        count += 1
    return count


def _resize(parts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize parts [n, h, w, 3] as Pillow would, to within one grey level, the quickest way: [n, height, width, 3].

    Pillow rounds between the two passes of a resize, and so does PyTorch. Where both passes hit exact halves and break
    them differently, the two end up two levels apart. So enlarging goes to OpenCV, which rounds once, and the ratios at
    which halves are frequent go to Pillow itself.
    """
    height, width = parts.shape[1:3]
    if size == (width, height):
        return parts
    if size[0] >= width and size[1] >= height:  # no antialiasing when enlarging: plain bilinear
        return np.stack([cv2.resize(part, size, interpolation=cv2.INTER_LINEAR) for part in parts])
    if _halves_are_frequent((width, height), size):
        images = [Image.fromarray(part).resize(size, Image.Resampling.BILINEAR) for part in parts]
        return np.stack([np.asarray(image) for image in images])
    # One call on interleaved channels, which is the layout of PyTorch's vectorised antialiased uint8 kernel.
    rows = torch.from_numpy(parts).permute(0, 3, 1, 2)  # [n, 3, h, w]
    return F.interpolate(rows, size=size[::-1], mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()


def _halves_are_frequent(source: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether values two levels apart would be frequent in noise.

    With phases of 1 / q pixel along an axis, one value in about 2 q is an exact half. The neighbours that the second,
    vertical pass mixes must all be, and its result as well. A single pass cannot go wrong.
    """
    if source[0] == size[0] or source[1] == size[1] or source[1] >= _MANY_TAPS * size[1]:
        return False
    phases = [out // gcd(pixels, out) for pixels, out in zip(source, size, strict=True)]
    return phases[0] ** 2 * phases[1] < _RARE_HALVES


def _frames_at(offsets: np.ndarray, num_frames: int) -> np.ndarray:
    # In the published order of operations, whose rounding decides where a middle falls on a whole number: for some
    # counts floor then gives one frame less than exact arithmetic would.
    num_segments = len(offsets)
    numbers = np.floor((np.arange(num_segments) + offsets) / num_segments * num_frames).astype(np.int64) + 1
    return numbers.clip(1, num_frames)
