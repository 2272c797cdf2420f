"""Who sees which video when."""

import multiprocessing
import sys

import pytest
import torch

from ops.data.loaders import EvaluationBatches, TrainingBatches, open_loader
from ops.utils.errors import UserError


def test_global_batches_do_not_depend_on_the_number_of_processes():
    alone = list(TrainingBatches(22, batch_size=4, seed=3))
    first, second = (list(TrainingBatches(22, batch_size=4, seed=3, rank=rank, world_size=2)) for rank in (0, 1))
    assert [one + two for one, two in zip(first, second, strict=True)] == alone
    assert len(alone) == 5 and all(len(batch) == 4 for batch in alone)
    assert len({video for batch in alone for video in batch}) == 20


def test_epochs_and_seeds_have_orders_of_their_own_that_repeat():
    batches = TrainingBatches(40, batch_size=4, seed=0)
    first = list(batches)
    batches.set_epoch(1)
    assert list(batches) != first
    batches.set_epoch(0)
    assert list(batches) == first
    assert list(TrainingBatches(40, batch_size=4, seed=1)) != first


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_sees_every_video_once(world_size):
    seen = [
        video
        for rank in range(world_size)
        for batch in EvaluationBatches(5, batch_size=2, rank=rank, world_size=world_size)
        for video in batch
    ]
    assert sorted(seen) == list(range(5))


def test_a_batch_that_cannot_be_shared_or_filled_is_refused():
    with pytest.raises(UserError, match="--batch_size 3 cannot be shared equally by 2 processes"):
        TrainingBatches(10, batch_size=3, seed=0, world_size=2)
    with pytest.raises(UserError, match=r"--batch_size 16 is larger than the training split \(10 videos\)"):
        TrainingBatches(10, batch_size=16, seed=0)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
def test_workers_are_forked_with_a_python_that_does_not_do_so_by_default():
    default = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)  # Python 3.14's
    try:
        with open_loader([7, 8], EvaluationBatches(2, batch_size=1), 1, torch.device("cpu")) as loader:
            assert isinstance(iter(loader)._workers[0], multiprocessing.context.ForkProcess)
    finally:
        multiprocessing.set_start_method(default, force=True)
