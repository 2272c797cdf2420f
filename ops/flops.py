"""What a prediction costs: GFLOPs counted on the real modules.

As in the paper, a GFLOP is 10^9 multiply-adds of convolutions and linear layers. The modules run on the meta device,
where shapes are followed but nothing is computed, so counting takes no time and no memory.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.uni_adafocus import UniAdaFocus

GIGA = 1e9


def part_gflops(model: UniAdaFocus) -> dict[str, float]:
    """GFLOPs of each part for one video: all glance frames, both policies, one patch, and the classifier's steps."""
    glance, focus = model.num_glance_segments, model.num_focus_segments
    cells, side, patch = model.input_size // 32, model.input_size, model.patch_size
    glance_dim, focus_dim = model.global_CNN.feature_dim, model.local_CNN.feature_dim
    classifier = model.classifier
    return {
        "glance": glance * gflops(model.global_CNN, 1, 3, side, side),
        "spatial_policy": gflops(model.spatial_policy, 1, glance, glance_dim, cells, cells),
        "temporal_policy": gflops(model.temporal_policy, 1, glance, glance_dim),
        "focus_per_patch": gflops(model.local_CNN, 1, 3, patch, patch),
        "classifier_glance": gflops(classifier.global_mlp, glance, glance_dim)
        + sum(gflops(head, 1, head[-1].in_features) for head in classifier.global_classifiers),
        "classifier_per_patch": gflops(classifier.local_mlp, 1, focus_dim)
        + sum(gflops(head, 1, head[-1].in_features) for head in classifier.local_classifiers) / focus,
    }


def exit_gflops(model: UniAdaFocus) -> list[float]:
    """GFLOPs up to each of the F + 1 exits: after the glance, which needs no policy, and after each focus patch."""
    parts = part_gflops(model)
    after_glance = parts["glance"] + parts["classifier_glance"]
    policies = parts["spatial_policy"] + parts["temporal_policy"]
    per_patch = parts["focus_per_patch"] + parts["classifier_per_patch"]
    steps = range(1, model.num_focus_segments + 1)
    return [after_glance, *(after_glance + policies + step * per_patch for step in steps)]


def cost_table(exits: Sequence[float]) -> Iterator[str]:
    """Lines that say what each exit costs, from `exit_gflops`."""
    yield "GFLOPs of a video that leaves at each exit (0: after the glance, k: after k patches):"
    for number, cost in enumerate(exits):
        yield f"  exit {number:2d}  {cost:8.4f}"


def gflops(module: nn.Module, *input_shape: int) -> float:
    """Multiply-adds of one evaluation pass over an input of this shape, in units of 10^9."""
    # Of a copy, since other threads may be using the module itself.
    on_meta = {id(tensor): tensor.detach().to("meta") for tensor in (*module.parameters(), *module.buffers())}
    skeleton = copy.deepcopy(module, on_meta).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        skeleton(torch.empty(input_shape, device="meta"))
    return counter.get_total_flops() / 2 / GIGA  # the counter takes a multiply-add for two
