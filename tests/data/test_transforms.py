"""Frame numbers, crops and resizing: the published recipe, and the fast path against Pillow."""

from collections import Counter
from fractions import Fraction
from functools import partial
from math import floor

import numpy as np
import pytest
import torchvision
from PIL import Image

from ops.data import transforms
from ops.data.transforms import CROP_PLACES, CropChoice, evaluation_view, training_view


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("num_frames", "num_segments", "numbers"),
    [(8, 8, range(1, 9)), (3, 6, [1, 1, 2, 2, 3, 3]), (10, 2, [3, 8]), (100, 4, [13, 38, 63, 88]), (1, 3, [1, 1, 1])],
)
def test_evaluation_takes_the_middle_of_each_segment(num_frames, num_segments, numbers):
    taken = transforms.evaluation_frames(num_frames=num_frames, num_segments=num_segments)
    assert taken.tolist() == list(numbers)


def test_evaluation_frames_round_as_the_published_code_does():
    """Divided by the segments before multiplied by the frames: some middles then fall one frame short."""
    differ_from_exact = 0
    for num_frames in range(3, 3000, 3):
        published = [floor((i + 0.5) / 48 * num_frames) + 1 for i in range(48)]
        assert transforms.evaluation_frames(num_frames=num_frames, num_segments=48).tolist() == published
        exact = [floor(Fraction(2 * i + 1, 2) * num_frames / 48) + 1 for i in range(48)]
        differ_from_exact += published != exact
    assert differ_from_exact > 0


def test_training_takes_any_frame_of_each_segment_and_no_other():
    generator = np.random.default_rng(0)
    taken = np.stack(
        [transforms.training_frames(num_frames=20, num_segments=4, generator=generator) for _ in range(300)]
    )
    for segment in range(4):
        assert set(taken[:, segment]) == set(range(5 * segment + 1, 5 * segment + 6))
    short = [transforms.training_frames(num_frames=3, num_segments=7, generator=generator) for _ in range(200)]
    assert set(np.concatenate(short)) == {1, 2, 3}


def test_training_crops_are_drawn_uniformly_with_scales_at_most_one_step_apart():
    generator = np.random.default_rng(0)
    choices = [transforms.training_crop(generator=generator) for _ in range(4000)]
    scales = Counter(choice.scales for choice in choices)
    assert set(scales) == {(w, h) for w in range(4) for h in range(4) if abs(w - h) <= 1}
    assert min(scales.values()) > 300  # of 400 expected
    places = Counter(choice.place for choice in choices)
    assert set(places) == set(CROP_PLACES) and len(CROP_PLACES) == 13
    assert min(places.values()) > 230  # of 308 expected
    assert 1850 < sum(choice.flip for choice in choices) < 2150


@pytest.mark.parametrize("labels", [[4, -1, -1], [4, 2, -1], [4, 2, 7]])
def test_every_label_comes_first_equally_often(labels):
    generator = np.random.default_rng(0)
    drawn = [transforms.training_labels(np.array(labels), generator=generator).tolist() for _ in range(600)]
    real = [label for label in labels if label >= 0]
    firsts = Counter(row[0] for row in drawn)
    assert set(firsts) == set(real) and min(firsts.values()) > 0.85 * 600 / len(real)
    for row in drawn:
        assert row == [row[0]] + [label for label in labels if label != row[0]]


@pytest.mark.parametrize(
    ("frame", "scales", "place", "box"),
    [
        ((340, 256), (0, 0), (0, 0), (0, 0, 256, 256)),
        ((340, 256), (1, 2), (4, 4), (116, 64, 340, 256)),
        ((340, 256), (3, 3), (2, 2), (86, 44, 254, 212)),  # steps of 43 and 22
        ((340, 256), (2, 1), (3, 1), (111, 8, 303, 232)),
        ((300, 226), (0, 1), (4, 0), (76, 0, 300, 197)),  # 226 snaps to 224
        ((300, 223), (0, 0), (4, 4), (76, 0, 300, 223)),  # 223 snaps to 224, but only the width has that much
    ],
)
def test_a_training_crop_lies_where_the_recipe_puts_it(frame, scales, place, box):
    view = training_view(*frame, input_size=224, choice=CropChoice(scales, place, flip=False))
    assert view == (box, (224, 224), (0, 0))


@pytest.mark.parametrize("frame", [(340, 256), (223, 222), (1, 1), (5, 300), (226, 1000), (64, 48)])
def test_a_training_crop_never_leaves_the_frame(frame):
    generator = np.random.default_rng(1)
    for _ in range(100):
        choice = transforms.training_crop(generator=generator)
        left, top, right, bottom = training_view(*frame, input_size=224, choice=choice).box
        assert 0 <= left < right <= frame[0] and 0 <= top < bottom <= frame[1]


@pytest.mark.parametrize(
    ("frame", "input_size", "size", "corner"),
    [
        ((340, 256), 224, (340, 256), (58, 16)),
        ((640, 360), 224, (455, 256), (116, 16)),
        ((360, 640), 224, (256, 455), (16, 116)),
        ((320, 240), 224, (341, 256), (58, 16)),
        ((320, 240), 112, (170, 128), (29, 8)),
        ((100, 100), 96, (110, 110), (7, 7)),
    ],
)
def test_evaluation_resizes_the_short_side_and_takes_the_centre(frame, input_size, size, corner):
    assert evaluation_view(*frame, input_size=input_size) == ((0, 0, *frame), size, corner)


@pytest.mark.parametrize("frame", [(340, 256), (640, 360), (360, 640), (320, 240), (1280, 720)])
def test_the_pillow_clip_is_what_torchvision_makes_of_the_frame(frame):
    """Evaluation, as published: Resize(256) and CenterCrop(224) of Pillow images."""
    image = Image.fromarray(noise(*frame))
    published = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(224)]
    )(image)
    clip = transforms.pillow_clip([image], input_size=224, view_of=partial(evaluation_view, input_size=224))
    assert np.array_equal(clip[0].permute(1, 2, 0).numpy(), np.asarray(published))


FRAMES = [(340, 256), (256, 340), (640, 360), (320, 240), (64, 48), (373, 280), (255, 257), (19, 120), (1, 1)]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("input_size", [224, 96])
def test_the_fast_clip_is_within_one_grey_level_of_pillow(frame, input_size):
    arrays = [noise(*frame, seed) for seed in range(2)]
    images = [Image.fromarray(array) for array in arrays]
    views = [(partial(evaluation_view, input_size=input_size), False)]
    for scales in ((0, 0), (1, 0), (1, 1), (1, 2), (2, 2), (3, 2)):
        choice = CropChoice(scales, CROP_PLACES[sum(scales) + 7], flip=True)
        views.append((partial(training_view, input_size=input_size, choice=choice), True))
    for view_of, flip in views:
        exact = transforms.pillow_clip(images, input_size=input_size, view_of=view_of, flip=flip)
        fast = transforms.fast_clip(arrays, num_frames=2, input_size=input_size, view_of=view_of, flip=flip)
        assert fast.shape == exact.shape == (2, 3, input_size, input_size)
        assert (fast.int() - exact.int()).abs().max() <= 1, view_of


@pytest.mark.parametrize("backend", ["fast", "pillow"])
def test_a_flip_mirrors_and_changes_nothing_else(backend):
    array = noise(90, 70)
    view_of = partial(evaluation_view, input_size=64)

    def clip(flip):
        if backend == "fast":
            return transforms.fast_clip([array] * 5, num_frames=5, input_size=64, view_of=view_of, flip=flip)
        return transforms.pillow_clip([Image.fromarray(array)] * 5, input_size=64, view_of=view_of, flip=flip)

    assert (clip(True) == clip(False).flip(-1)).all()
    assert not (clip(True) == clip(False)).all()


@pytest.mark.parametrize("frame", [*FRAMES, (854, 480), (500, 375)])
def test_leaving_unused_pixels_out_changes_no_pixel(frame):
    def whole(width, height):
        return evaluation_view(width, height, input_size=224)

    def part(width, height):
        return transforms.without_unused_pixels(whole(width, height), input_size=224)

    image = Image.fromarray(noise(*frame))
    clips = [transforms.pillow_clip([image], input_size=224, view_of=view_of) for view_of in (whole, part)]
    assert (clips[0] == clips[1]).all()


def test_a_common_frame_is_not_resized_where_nobody_looks():
    view = transforms.without_unused_pixels(evaluation_view(640, 360, input_size=224), input_size=224)
    assert view == ((128, 0, 512, 360), (273, 256), (25, 16))
    view = transforms.without_unused_pixels(evaluation_view(340, 256, input_size=224), input_size=224)
    assert view == ((58, 16, 282, 240), (224, 224), (0, 0))


def test_frames_of_one_video_may_differ_in_size():
    arrays = [noise(*frame, seed) for seed, frame in enumerate([(80, 60)] * 6 + [(60, 80), (80, 60), (224, 200)])]
    choice = CropChoice((1, 2), (3, 1), flip=True)
    for view_of in (
        partial(evaluation_view, input_size=64),
        partial(training_view, input_size=64, choice=choice),
    ):
        clip = transforms.fast_clip(iter(arrays), num_frames=9, input_size=64, view_of=view_of)
        for row, array in zip(clip, arrays, strict=True):
            alone = transforms.fast_clip([array], num_frames=1, input_size=64, view_of=view_of)
            assert (row == alone[0]).all()


def test_clips_are_channels_last_in_memory():
    view_of = partial(evaluation_view, input_size=64)
    fast = transforms.fast_clip([noise(80, 60)], num_frames=1, input_size=64, view_of=view_of)
    exact = transforms.pillow_clip([Image.fromarray(noise(80, 60))], input_size=64, view_of=view_of)
    assert fast.stride() == exact.stride() == (64 * 64 * 3, 1, 64 * 3, 3)
