"""Which frames had to be replaced because they could not be read: said after each epoch and each evaluation."""

from collections.abc import Callable

from ops.data.check import first_few
from ops.data.dataset import VideoDataset
from ops.utils import distributed


def report_replaced(dataset: VideoDataset, say: Callable[[str], None], where: str) -> int:
    """How many frames of the clips so far were replaced, in all processes together; counting starts again from zero.

    All processes call this. Where there are any, `say` gets a line with the first videos' names, after `where` it was.
    """
    counts = distributed.sum_over_processes(dataset.replaced_frames.clone())  # [N]
    dataset.reset_replaced()
    rows, frames = counts.nonzero().flatten().tolist(), int(counts.sum())
    if rows:
        say(
            f"warning: {where}: {frames} frames of {len(rows)} videos could not be read, and the nearest good frame of "
            f"the same video stood in for each: {first_few([dataset.video_name(row) for row in rows])}"
        )
    return frames
