"""Exchanging results between processes, and doing without any."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from ops.utils import distributed
from ops.utils.errors import UserError
from tests.shared import call_together, the_error


def exchange(arguments) -> None:
    with distributed.process_group():
        rank = distributed.rank()
        assert distributed.world_size() == 2 and distributed.is_main_process() == (rank == 0)
        # three rows here, one there
        indices = torch.tensor([0, 3, 2] if rank == 0 else [1])
        rows = distributed.gather_rows(indices.float()[:, None] * torch.ones(2), indices, 4)
        if rank == 0:
            assert rows.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]], rows
        else:
            assert rows is None
        assert distributed.sum_over_processes(torch.tensor([rank + 1.0])).tolist() == [3]
        assert distributed.broadcast_object(f"of {rank}") == "of 0"
        assert distributed.gather_objects(rank) == [0, 1]
        order = []
        with distributed.main_process_first():
            order.append(rank)
        layer = torch.nn.BatchNorm1d(1)
        layer.running_mean.fill_(rank + 5)
        distributed.share_buffers(layer)
        assert float(layer.running_mean) == 5
        print(f"rank {rank} got here", flush=True)
        with distributed.fail_together():
            if rank == 1:
                raise UserError("only the second process knows")
        print("not reached", flush=True)


def test_two_processes_exchange_rows_sums_and_mistakes():
    done = call_together(exchange, check=False)
    assert done.stdout == "rank 0 got here\nrank 1 got here\n", done.stderr
    assert done.returncode == 2 and "only the second process knows" in the_error(done.stderr)


def exchange_and_leave(arguments) -> None:
    for turn in range(3):
        distributed.MEETING_PLACE = distributed.MEETING_PLACE.replace("meeting", f"{turn}meeting")
        with distributed.process_group():
            network = DistributedDataParallel(torch.nn.Linear(3, 3))
            network(torch.ones(2, 3)).sum().backward()
            distributed.sum_over_processes(torch.ones(500_000))
        del network  # holds the group for longer than it is joined, as in a training


def test_a_group_can_be_left_right_after_an_exchange():
    assert call_together(exchange_and_leave).returncode == 0


def test_one_process_needs_no_group():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main_process()) == (0, 1, True)
    rows = distributed.gather_rows(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 0]), 2)
    assert rows.tolist() == [[2], [1]]
    assert distributed.broadcast_object("mine") == "mine" and distributed.gather_objects(3) == [3]
    with pytest.raises(UserError, match="mine"), distributed.fail_together():
        raise UserError("mine")
    with pytest.raises(UserError, match="mine"), distributed.main_process_first():
        raise UserError("mine")
