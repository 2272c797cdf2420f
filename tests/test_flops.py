"""Counted costs against the published table."""

import itertools

import numpy as np
import pytest
import torch

from models.uni_adafocus import UniAdaFocus
from ops import flops
from ops.flops import exit_gflops, part_gflops
from tests.shared import REFERENCE, SMALL


@pytest.mark.parametrize("patch_size", [96, 128, 160, 192])
def test_costs_of_the_exits_are_the_published_ones(patch_size):
    published = np.load(REFERENCE / "functions.npz")[f"gflops_{patch_size}"]
    with torch.device("meta"):
        model = UniAdaFocus(200, patch_size=patch_size)
    np.testing.assert_allclose(exit_gflops(model), published, rtol=1e-3)


def test_another_thread_may_use_the_network_meanwhile(small_model, monkeypatch):
    seen = []

    class Counter(flops.FlopCounterMode):
        def __enter__(self):
            seen.append({parameter.device.type for parameter in small_model.parameters()} | {small_model.training})
            return super().__enter__()

    monkeypatch.setattr(flops, "FlopCounterMode", Counter)
    exit_gflops(small_model.train())
    assert seen and all(found == {"cpu", True} for found in seen)


def test_costs_follow_the_sizes_and_leave_the_model_as_it_was(small_model):
    small_model.keep_batch_statistics()
    modes = [part.training for part in small_model.train().modules()]
    costs = exit_gflops(small_model)
    assert [part.training for part in small_model.modules()] == modes and len(set(modes)) == 2
    assert len(costs) == SMALL["num_focus_segments"] + 1
    assert all(low < high for low, high in itertools.pairwise(costs))
    with torch.device("meta"):
        larger_patch = UniAdaFocus(4, **(SMALL | {"patch_size": 64}))
    ratio = part_gflops(larger_patch)["focus_per_patch"] / part_gflops(small_model)["focus_per_patch"]
    assert ratio == pytest.approx(4)
