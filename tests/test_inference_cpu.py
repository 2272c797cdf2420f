"""ops/inference_cpu.py: groups on several cores give what one after the other gives."""

import multiprocessing
import threading

import pytest
import torch

from ops.inference_cpu import side_by_side
from tests.shared import torch_threads


@pytest.fixture(autouse=True)
def three_threads():
    with torch_threads(3):
        yield


def test_results_come_in_the_order_of_the_groups():
    groups = torch.arange(50.0).split(3)
    results = side_by_side(lambda group: 2 * group, groups)
    torch.testing.assert_close(torch.cat(results), 2 * torch.arange(50.0))


def test_as_many_groups_at_once_as_there_are_threads_on_one_core_each():
    together = threading.Barrier(3)

    def work(group: torch.Tensor) -> torch.Tensor:
        together.wait(timeout=60)  # nobody comes through alone
        return torch.tensor(torch.get_num_threads())

    assert side_by_side(work, torch.zeros(3).split(1)) == [1, 1, 1]
    assert torch.get_num_threads() == 3
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [3]  # threads of others are not told to be alone


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_gradients_are_recorded_as_where_it_is_called(mode):
    weight = torch.ones(1, requires_grad=True)
    with mode():
        here = weight * torch.ones(2)
        there = side_by_side(lambda group: weight * group, torch.ones(4).split(2))
    assert all(t.requires_grad == here.requires_grad and t.is_inference() == here.is_inference() for t in there)


def test_what_the_work_raises_is_raised():
    def work(group: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such group")

    with pytest.raises(ValueError, match="no such group"):
        side_by_side(work, torch.zeros(2).split(1))
    assert len(side_by_side(torch.neg, torch.zeros(2).split(1))) == 2  # and the next call works


def _in_a_forked_process() -> None:
    assert len(side_by_side(torch.neg, torch.zeros(4).split(1))) == 4


def test_a_forked_process_has_threads_of_its_own():
    side_by_side(torch.neg, torch.zeros(4).split(1))
    process = multiprocessing.get_context("fork").Process(target=_in_a_forked_process)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 0
