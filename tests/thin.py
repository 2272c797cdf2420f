"""Thin networks: the names and the features of the published backbones, with few blocks and narrow inside.

    python -m tests.thin main.py --dataset toy

runs a script with them and without pictures; within one process it is `thin_networks()` and `no_pictures()`, or the
fixtures of the same names. For whole runs whose point is not the network: a checkpoint has 13 MB instead of 340.
"""

import contextlib
import os
import runpy
import sys
from collections.abc import Iterator
from unittest.mock import patch

from matplotlib.figure import Figure
from torch import nn

from models import aggregator, backbones

PROJECTION_DIM = 16
IMAGENET_CLASSES = 2


class ThinMobileNetV2(backbones.MobileNetV2Backbone):
    """One block for each halving of the frame."""

    def __init__(self) -> None:
        stages = [[1, 8, 1, 1], [2, 8, 1, 2], [2, 8, 1, 2], [2, 8, 1, 2], [2, 16, 1, 2]]
        super().__init__(inverted_residual_setting=stages)


class ThinResNet50(backbones.ResNet50Backbone):
    """One block in each of the four layers; only the last layer has as many channels as published."""

    def _make_layer(self, block: type[nn.Module], planes: int, blocks: int, *where: object, **also: object):
        self.base_width = 64 if planes < 512 else 4
        return super()._make_layer(block, planes if planes == 512 else planes // 16, 1, *where, **also)


@contextlib.contextmanager
def thin_networks() -> Iterator[None]:
    """Networks that are built within the block are thin."""
    with (
        patch.object(backbones, "MobileNetV2Backbone", ThinMobileNetV2),
        patch.object(backbones, "ResNet50Backbone", ThinResNet50),
        patch.object(backbones, "IMAGENET_CLASSES", IMAGENET_CLASSES),
        patch.object(aggregator, "PROJECTION_DIM", PROJECTION_DIM),
    ):
        yield


@contextlib.contextmanager
def no_pictures() -> Iterator[None]:
    """Runs draw nothing and keep no TensorBoard log; the tests of these say what would be there."""
    with (
        patch("ops.runner.show_in_tensorboard", lambda *_: None),
        patch("ops.runner.draw_run", lambda folder: None),
        patch("ops.report.outputs.draw_run", lambda folder: None),
        patch("ops.early_exit.run.early_exit_figure", lambda *_: Figure()),
        patch("ops.utils.logger.RunLogger.scalars", lambda *_: None),
    ):
        yield


def run() -> None:
    """Run the script that the command line names, with its arguments."""
    given = sys.argv[1:]
    script = next(text for text in given if text.endswith(".py"))  # `torch.distributed.launch` puts an option before it
    given.remove(script)
    sys.argv = [script, *given]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    with thin_networks(), no_pictures():
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    run()
