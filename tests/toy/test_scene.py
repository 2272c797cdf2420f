"""ops/toy/scene.py: what a class is called is what is drawn; whole videos are tested in test_dataset.py."""

import numpy as np
import pytest

from ops.toy.scene import COLOURS, PATTERNS, draw_disc, draw_video, moving_background


@pytest.mark.parametrize("seed", range(4))
def test_each_pattern_is_what_its_name_says(seed):
    discs = {pattern: draw_disc(np.random.default_rng(seed), "blue", pattern, 60)[0] for pattern in PATTERNS}
    levels = {pattern: disc[10:50, 10:50, 0] for pattern, disc in discs.items()}  # of red: high in white, low in blue
    changes = {
        pattern: [np.abs(np.diff(level, axis=axis)).sum() for axis in (1, 0)] for pattern, level in levels.items()
    }
    assert changes["stripes"][0] > 2 * changes["stripes"][1]  # they stand
    assert changes["bars"][1] > 2 * changes["bars"][0]  # they lie
    turned = {pattern: np.corrcoef(level.ravel(), np.rot90(level).ravel())[0, 1] for pattern, level in levels.items()}
    assert turned["rings"] > 0.95  # all around
    assert turned["checks"] < -0.8  # white where a colour was


def test_each_colour_is_what_its_name_says():
    for number, colour in enumerate(COLOURS):
        for pattern in PATTERNS:
            disc, _ = draw_disc(np.random.default_rng(0), colour, pattern, 60)
            darkest = disc.reshape(-1, 3)[disc.sum(-1).argmin()]
            assert darkest.argmax() == number and np.allclose(disc.max((0, 1)), 245)


@pytest.mark.parametrize(
    ("frames", "percent", "shown"),
    [(20, 21, {4}), (48, 6, {3}), (20, 1, {1}), (20, 100, {19, 20}), (100, 50, {48, 49, 50, 51, 52})],
)
def test_the_badge_is_there_for_its_share_of_the_frames(frames, percent, shown):
    size = {"frames": frames, "height": 32, "width": 32, "badge_percent": percent}
    found = {len(draw_video(0, (seed,), **size).boxes) for seed in range(12)}
    assert found <= shown and (len(shown) < 3 or len(found) > 1)


@pytest.mark.parametrize(("height", "width"), [(24, 96), (96, 24)])
def test_the_background_fills_frames_of_any_shape(height, width):
    for seed in range(8):
        empty = (moving_background(np.random.default_rng(seed), 6, height, width) == 0).all(-1)
        assert not empty.all(1).any() and not empty.all(2).any()


def test_another_share_changes_neither_background_nor_distractors():
    """The same draws are made: frames without a badge in either video are the same."""
    few, many = (draw_video(0, (5,), frames=20, height=48, width=48, badge_percent=percent) for percent in (6, 40))
    free = [number for number in range(1, 21) if number not in few.boxes and number not in many.boxes]
    assert free and all((few.frames[number - 1] == many.frames[number - 1]).all() for number in free)


def test_videos_of_the_default_share_are_those_that_results_were_made_with():
    """Places of the badge, to the pixel: a change of what is drawn before it, or how often, would move them."""
    boxes = draw_video(3, (2, 1, 7), frames=20, height=144, width=144).boxes
    assert boxes == {15: (64, 76, 90, 102), 16: (70, 75, 96, 101), 17: (64, 79, 90, 105), 18: (70, 78, 96, 104)}
