"""ops/toy/stills.py: what is drawn is what the targets say, and of the sizes that the model sees."""

import hashlib
from functools import partial

import numpy as np
import pytest
import torch

from ops.toy import stills
from ops.toy.stills import crowded_mosaics, draw_stills, drawn_ahead, one_after_the_other, single_tiles, sparse_mosaics


def test_targets_say_where_the_badges_are_and_of_which_colour():
    images, targets = draw_stills(np.random.default_rng(0), 6, tiles=4, classes=9, badges=0.5)
    assert images.shape == (6, 3, 128, 128) and images.dtype == torch.uint8 and targets.shape == (6, 4, 4, 9)
    with_badge, without = [], []
    for still, row, column in np.ndindex(6, 4, 4):
        tile = images[still, :, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32].int()
        target = targets[still, row, column]
        assert target.sum() == pytest.approx(1) and float(target.max()) in (1, pytest.approx(1 / 9))
        for colour in range(3):  # red, green, blue
            others = tile[[c for c in range(3) if c != colour]].amax(0)
            shown = with_badge if target.max() == 1 and target.argmax() % 3 == colour else without
            shown.append(float((tile[colour] - others > 90).float().mean()))
    assert min(with_badge) > 0.03 and np.mean(with_badge) > 5 * np.mean(without)


def test_stills_of_the_default_sizes_are_those_that_results_were_made_with():
    """Figures in the repository are of networks that learned on these; OpenCV may draw a pixel otherwise elsewhere."""
    images, targets = draw_stills(np.random.default_rng(1), 9, 1, 12)
    assert (images.shape, targets.shape) == ((9, 3, 64, 64), (9, 1, 1, 12))
    assert targets.argmax(-1).flatten().tolist() == [5, 0, 9, 11, 0, 0, 9, 11, 0]
    assert images.float().mean((0, 2, 3)).tolist() == pytest.approx([145.97, 145.5, 121.02], abs=0.01)
    images, targets = draw_stills(np.random.default_rng(1), 9, 4, 12, 0.1, at_a_glance=True)
    assert (images.shape, targets.shape) == ((9, 3, 128, 128), (9, 4, 4, 12))
    assert images.float().mean((0, 2, 3)).tolist() == pytest.approx([102.69, 101.21, 144.62], abs=0.01)


@pytest.mark.parametrize(("tiles", "side"), [(1, 128), (2, 256), (4, 256)])
def test_larger_stills_show_the_same_larger(tiles, side):
    """Twice as large, with the same draws, badges are twice as large; backgrounds and places are others."""
    draw = partial(draw_stills, count=40, tiles=tiles, classes=9, badges=1.0)
    (small, targets), (large, same_targets) = (draw(np.random.default_rng(0), scale=scale) for scale in (1.0, 2.0))
    assert small.shape[-1] == side // 2 and large.shape[-1] == large.shape[-2] == side
    assert targets.shape == same_targets.shape
    shares = [_vivid(images).mean().item() for images in (small, large)]
    assert shares[1] == pytest.approx(shares[0], rel=0.15)


def _vivid(images: torch.Tensor) -> torch.Tensor:
    """Where a colour is as strong as in badges alone: float32 [N, H, W]."""
    levels = images.int().sort(1).values
    return (levels[:, 2] - levels[:, 1] > 70).float()


def test_discs_of_frames_of_224_have_the_sizes_that_they_have_in_the_videos(monkeypatch):
    """0.17 to 0.22 of 252 pixels in a frame of 224, and larger in patches of 128."""
    sizes = []
    real = stills.draw_disc
    monkeypatch.setattr(stills, "draw_disc", lambda *given: sizes.append(given[-1]) or real(*given))
    draw_stills(np.random.default_rng(0), 24, 4, 12, 1.0, scale=224 / 128)
    assert (min(sizes), max(sizes)) == (43, 55)
    sizes.clear()
    draw_stills(np.random.default_rng(0), 200, 1, 12, 1.0, scale=128 / 64)
    assert (min(sizes), max(sizes)) == (49, 63)


def test_a_glance_learns_on_ever_emptier_mosaics_and_no_rings_from_checks(monkeypatch):
    drawn = []

    def draw(generator, count, tiles, classes, badges=0.75, at_a_glance=False, scale=1.0):
        drawn.append((count, tiles, classes, badges, at_a_glance, scale))

    monkeypatch.setattr(stills, "draw_stills", draw)
    for share in (0.0, 0.5, 1.0):
        sparse_mosaics(np.random.default_rng(0), share, 9, 0.5)
    assert drawn == [pytest.approx((8, 4, 9, badges, True, 0.5)) for badges in (0.4, 0.25, 0.1)]
    drawn.clear()
    for seed in range(8):
        crowded_mosaics(np.random.default_rng(seed), 0.5, 9, 0.5)
    assert set(drawn) == {(8, 2, 9, 0.75, True, 0.5), (8, 4, 9, 0.75, True, 0.5)}
    drawn.clear()
    single_tiles(np.random.default_rng(0), 0.5, 9, 0.5)
    assert drawn == [(32, 1, 9, 0.75, False, 0.5)]


@pytest.mark.parametrize("draw", [crowded_mosaics, single_tiles])
def test_stills_drawn_ahead_do_not_depend_on_how_many_draw(draw):
    alone, shared = (list(drawn_ahead(draw, 5, 9, 0.5, (3, 2), workers)) for workers in (0, 2))
    assert len(alone) == 5
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert len({hashlib.sha256(images.numpy().tobytes()).digest() for images, _ in alone}) == 5


def test_stills_drawn_ahead_know_how_far_it_is():
    assert list(drawn_ahead(lambda generator, share, *_: share, 4, 9, 0.5, (3, 2), 0)) == [0, 0.25, 0.5, 0.75]


def test_stills_one_after_the_other_are_of_one_generator():
    generator, expected = np.random.default_rng(7), np.random.default_rng(7)
    for number, (images, targets) in enumerate(one_after_the_other(crowded_mosaics, 3, 9, 0.5, generator)):
        same_images, same_targets = crowded_mosaics(expected, number / 3, 9, 0.5)
        assert torch.equal(images, same_images) and torch.equal(targets, same_targets)
