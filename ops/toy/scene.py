"""One toy video: a cluttered moving background, grey distractors, and for part of the time the badge that decides.

The badge is a small disc with a pattern of white and one colour, and its colour and pattern together are the class.
Grey discs with the same patterns move about in every frame, so that neither a pattern alone nor the average of the
frames says which class a video is of. All else (background, distractors, time span, path, size) is drawn without
looking at the class: with the same seed, videos of two classes differ in the badge alone.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

COLOURS = {"red": (225, 30, 40), "green": (30, 190, 60), "blue": (40, 70, 230)}
PATTERNS = ("bars", "stripes", "rings", "checks")
CLASSES = tuple((colour, pattern) for pattern in PATTERNS for colour in COLOURS)
CLASS_NAMES = tuple(" ".join(each) for each in CLASSES)

BADGE_SIDE = (0.17, 0.22)  # of the frame's height; distractors too
_WHITE = (245.0, 245.0, 245.0)
_DISTRACTORS = 3
BADGE_PERCENT = 21  # of the frames show the badge, unless other settings ask for more or fewer
_BADGE_TIME = (0.2, 0.22)  # share of the frames that do, with that percentage
_MARGIN = 0.15  # share of the free room at each side where no disc begins
_DRIFT = 0.2  # share of the free room that a disc goes through at most
_CLUTTER = 60  # things on the background
_SUPERSAMPLING = 3


class ToyVideo(NamedTuple):
    """Frames, and where the badge is."""

    frames: np.ndarray  # uint8 RGB [N, H, W, 3]
    boxes: dict[int, tuple[int, int, int, int]]  # frame number from 1 -> left, top, right, bottom (right, bottom out)


def draw_video(
    label: int, seed: Sequence[int], *, frames: int, height: int, width: int, badge_percent: int = BADGE_PERCENT
) -> ToyVideo:
    """Draw one video of class `label` (a place in `CLASSES`); the same arguments give the same pixels.

    badge_percent: of the frames in which the badge is there, one after the other and at least one; give or take 5 % of
    that number.
    """
    generator = np.random.default_rng(seed)
    video = moving_background(generator, frames, height, width)
    for _ in range(_DISTRACTORS):
        side = draw_side(generator, height)
        disc = draw_disc(generator, None, PATTERNS[generator.integers(len(PATTERNS))], side)
        for frame, (x, y) in zip(video, _path(generator, frames, side, height, width), strict=True):
            paste(frame, disc, x, y)

    shown = round(generator.uniform(*_BADGE_TIME) * (badge_percent / BADGE_PERCENT) * frames)
    shown = min(max(1, shown), frames)
    first = int(generator.integers(frames - shown + 1))
    side = draw_side(generator, height)
    disc = draw_disc(generator, *CLASSES[label], side)
    boxes = {}
    for index, (x, y) in enumerate(_path(generator, shown, side, height, width), start=first):
        paste(video[index], disc, x, y)
        boxes[index + 1] = (x, y, x + side, y + side)
    return ToyVideo(to_pixels(video), boxes)


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Float images, which it changes, as uint8."""
    return np.clip(np.rint(images, out=images), 0, 255, out=images).astype(np.uint8)


def moving_background(generator: np.random.Generator, frames: int, height: int, width: int) -> np.ndarray:
    """A window that moves, a little shakily, over clouds with clutter on them: float32 [N, H, W, 3]."""
    canvas_height, canvas_width = 3 * height, 3 * width
    canvas = np.tile(generator.uniform(50, 190, 3).astype(np.float32), (canvas_height, canvas_width, 1))
    for cells, strength in ((3, 26.0), (8, 26.0), (24, 14.0)):
        clouds = generator.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        grey = clouds.mean(2, keepdims=True)
        clouds = grey + 0.45 * (clouds - grey)
        canvas += cv2.resize(clouds, (canvas_width, canvas_height), interpolation=cv2.INTER_CUBIC)
    np.clip(canvas, 0, 255, out=canvas)
    for _ in range(_CLUTTER):
        _add_clutter(canvas, generator, unit=height / 80)

    centre = generator.uniform(0.6, 1.4, 2) * (width, height)
    direction = generator.uniform(0.15, 0.5, 2) * generator.choice([-1, 1], 2) * (width, height)
    shake = generator.normal(0, height / 130, (frames, 2)).cumsum(0)
    corners = centre + np.linspace(0, 1, frames)[:, None] * direction + shake
    video = np.empty((frames, height, width, 3), np.float32)
    for frame, (x, y) in zip(video, corners.clip(0, (2 * width, 2 * height)), strict=True):
        move = np.array([[1, 0, -x], [0, 1, -y]], np.float32)
        cv2.warpAffine(canvas, move, (width, height), dst=frame, flags=cv2.INTER_LINEAR)
    return video


def _add_clutter(canvas: np.ndarray, generator: np.random.Generator, unit: float) -> None:
    """Put one ellipse, rectangle or line of a muted colour somewhere on the canvas."""
    colour = (generator.uniform(20, 235) + 0.35 * generator.uniform(-70, 70, 3)).tolist()
    colour = tuple(min(max(level, 0.0), 255.0) for level in colour)  # np.clip takes ten times as long for three numbers
    x, y = generator.uniform(0, 1, 2) * (canvas.shape[1], canvas.shape[0])
    half_width, half_height = generator.uniform(3, 16, 2) * unit
    angle = generator.uniform(0, 180)
    kind = generator.choice(["ellipse", "rectangle", "line"])
    if kind == "ellipse":
        ellipse = ((x, y), (2 * half_width, 2 * half_height), angle)
        cv2.ellipse(canvas, ellipse, colour, cv2.FILLED, cv2.LINE_AA)
    elif kind == "rectangle":
        corners = cv2.boxPoints(((x, y), (2 * half_width, 2 * half_height), angle))
        cv2.fillConvexPoly(canvas, corners.astype(np.int32), colour, cv2.LINE_AA)
    else:
        reach = 2.5 * half_width * np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
        end = (int(x + reach[0]), int(y + reach[1]))
        cv2.line(canvas, (int(x), int(y)), end, colour, max(1, round(half_height / 5)), cv2.LINE_AA)


def draw_side(generator: np.random.Generator, height: float) -> int:
    """The side of a disc in a frame of that height, pixels."""
    return max(2, round(generator.uniform(*BADGE_SIDE) * height))


def draw_disc(
    generator: np.random.Generator, colour: str | None, pattern: str, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """A disc in white and a shade of the colour, None for a grey: float32 RGB [side, side, 3], and how much of each
    pixel it covers [side, side, 1]. The generator is used in the same way whatever the colour and pattern."""
    angle, shade, grey = generator.uniform(-0.4, 0.4), generator.normal(0, 10, 3), generator.uniform(50, 150)
    shade += COLOURS[colour] if colour else grey
    x, y, radius, cover = _circle(side)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    if pattern == "checks":
        coloured = (np.floor(along / (side / 4)) + np.floor(across / (side / 4))) % 2 == 0
    else:
        coordinate = {"bars": across, "stripes": along, "rings": radius}[pattern]
        coloured = np.floor(coordinate / (side / 6) + 0.5) % 2 == 0
    share = cv2.resize(coloured.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)[..., None]
    white = np.float32(_WHITE)
    return white + share * (np.float32(shade).clip(0, 255) - white), cover


@functools.lru_cache(maxsize=256)
def _circle(side: int) -> tuple[np.ndarray, ...]:
    """The points of a disc of this many pixels: x and y from its centre and their distance to it, in pixels, float32
    [fine], several points to a pixel; and how much of each pixel the disc covers [side, side, 1]."""
    fine = side * _SUPERSAMPLING
    y, x = (np.mgrid[:fine, :fine].astype(np.float32) + 0.5) / _SUPERSAMPLING - side / 2
    radius = np.hypot(x, y)
    cover = (radius <= side / 2).astype(np.float32)
    return x, y, radius, cv2.resize(cover, (side, side), interpolation=cv2.INTER_AREA)[..., None]


def _path(generator: np.random.Generator, frames: int, side: int, height: int, width: int) -> list[tuple[int, int]]:
    """Left top corners (x, y) of a disc that drifts from a random place, swaying, always inside the frame."""
    room = np.array([width - side, height - side])
    start = generator.uniform(_MARGIN, 1 - _MARGIN, 2) * room
    end = start + generator.uniform(-_DRIFT, _DRIFT, 2) * room
    time = np.linspace(0, 1, frames)[:, None]
    waves, phase = generator.uniform(0.5, 1.5), generator.random()
    sway = np.sin(2 * np.pi * (time * waves + phase)) * generator.uniform(-0.08, 0.08, 2) * room
    places = (start + (end - start) * time + sway).clip(0, room)
    return [(int(x), int(y)) for x, y in places.round()]


def paste(frame: np.ndarray, disc: tuple[np.ndarray, np.ndarray], x: int, y: int) -> None:
    """Put a disc of `draw_disc` on a float frame, its left top corner at (x, y)."""
    pixels, cover = disc
    part = frame[y : y + len(pixels), x : x + len(pixels)]
    part += cover * (pixels - part)
