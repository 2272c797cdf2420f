"""Made-up inspections, for the tests of pictures."""

import cv2
import numpy as np

from ops.report.inspection import Inspection


def make_inspection(
    segments: int = 16, glance: int = 8, focus: int = 4, looked_at: int = 4, classes: int = 6, seed: int = 0
) -> Inspection:
    """Frames of 64 pixels, patches of 32; with the defaults, focus frames at 2, 5, 8, 11."""
    generator = np.random.default_rng(seed)

    def pictures(number: int, side: int) -> np.ndarray:
        coarse = generator.integers(0, 255, (number, 4, 4, 3), np.uint8)
        return np.array([cv2.resize(each, (side, side)) for each in coarse], np.uint8).reshape(number, side, side, 3)

    share = segments // glance
    weights = generator.random(glance) + 0.1
    scores = np.exp(generator.normal(size=(1 + looked_at, classes)))
    sides = generator.uniform(28, 64, (looked_at, 2))
    corners = generator.random((looked_at, 2)) * (64 - sides)
    return Inspection(
        num_segments=segments,
        num_focus_segments=focus,
        glance_frames=pictures(glance, 64),
        glance_segments=np.arange(glance) * share + min(1, share - 1),
        frame_weights=(weights / weights.sum()).astype(np.float32),
        focus_frames=pictures(looked_at, 64),
        focus_segments=np.linspace(segments // 8, segments * 3 // 4 - 1, focus).astype(np.int64)[:looked_at],
        boxes=np.concatenate([corners, sides], axis=1).astype(np.float32),
        patches=pictures(looked_at, 32),
        step_probabilities=(scores / scores.sum(1, keepdims=True)).astype(np.float32),
        actions=generator.random((glance, 4)).astype(np.float32),
    )
