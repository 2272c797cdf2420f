"""ops/toy/scene.py: what a class is called is what is drawn; whole videos are tested in test_dataset.py."""

import numpy as np
import pytest

from ops.toy.scene import COLOURS, PATTERNS, draw_disc


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
