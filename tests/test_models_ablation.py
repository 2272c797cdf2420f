"""models/ablation.py: other choices than the learned ones, at the same cost."""

import dataclasses
from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.ablation import (
    FRAME_POLICIES,
    PATCH_POLICIES,
    Policies,
    decide_otherwise,
    outputs_of_policies,
    uniform_frames,
)
from models.spatial_policy import actions_to_boxes
from models.uni_adafocus import UniAdaFocus
from tests.shared import SMALL, thin_reference_model

PAIRS = [Policies(*pair) for pair in product(PATCH_POLICIES, FRAME_POLICIES)]
VIDEOS = torch.tensor([4, 7])


@pytest.fixture(scope="module")
def model() -> UniAdaFocus:
    """Weights under which the policies neither look at the centre nor spread the frames evenly."""
    return thin_reference_model(4, **SMALL)


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return torch.randint(0, 256, (2, 6, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def learned(model, frames):
    with torch.no_grad():
        return model.decide(model.glance(frames))


@torch.no_grad()
def test_with_the_learned_policies_every_output_is_the_plain_one_to_the_bit(model, frames):
    plain = model(frames)
    for output in outputs_of_policies(model, frames, VIDEOS, [Policies(), Policies(seed=3, draw=2)]):
        for field in dataclasses.fields(plain):
            assert torch.equal(getattr(output, field.name), getattr(plain, field.name)), field.name


@torch.no_grad()
def test_all_policies_cost_the_same(model, frames):
    def count(run) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    plain = count(lambda: model(frames))
    assert {count(lambda p=p: outputs_of_policies(model, frames, VIDEOS, [p])) for p in PAIRS} == {plain}


@torch.no_grad()
def test_the_glance_is_the_same_and_computed_once_for_all(model, frames, monkeypatch):
    glances = []
    glance = model.glance
    monkeypatch.setattr(model, "glance", lambda frames: glances.append(1) or glance(frames))
    outputs = outputs_of_policies(model, frames, VIDEOS, PAIRS)
    assert len(outputs) == 9 and len(glances) == 1
    assert all(torch.equal(output.glance_logits, outputs[0].glance_logits) for output in outputs)


@torch.no_grad()
def test_random_patches_and_frames_change_the_predictions(model, frames):
    choices = [Policies(), Policies(patches="random"), Policies(patches="center"), Policies(frames="random", draw=1)]
    logits = [output.logits for output in outputs_of_policies(model, frames, VIDEOS, choices)]
    assert all(not torch.equal(logits[0], other) for other in logits[1:])


def test_uniform_frames_are_the_middles_of_equal_parts():
    assert uniform_frames(48, 16).tolist() == [1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34, 37, 40, 43, 46]
    assert uniform_frames(6, 2).tolist() == [1, 4]
    assert uniform_frames(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert uniform_frames(7, 3).tolist() == [1, 3, 5]


def test_random_frames_are_distinct_in_order_and_reach_every_frame(model, learned):
    drawn = torch.cat(
        [
            decide_otherwise(model, learned, VIDEOS, Policies(frames="random", draw=draw)).focus_indices
            for draw in range(30)
        ]
    )
    assert (drawn.diff(dim=1) > 0).all()
    assert sorted(drawn.unique().tolist()) == list(range(6))


def test_patches_in_the_centre_have_the_base_size_and_as_much_room_on_every_side(model, learned):
    decision = decide_otherwise(model, learned, VIDEOS, Policies(patches="center"))
    corner, side = actions_to_boxes(decision.focus_actions, 64)
    torch.testing.assert_close(corner, torch.full((2, 2, 2), 16.0))
    torch.testing.assert_close(side, torch.full((2, 2, 2), 32.0))


def test_random_patches_have_the_base_size_and_spread_over_the_whole_frame(model, learned):
    videos = torch.arange(2)
    boxes = [
        actions_to_boxes(
            decide_otherwise(model, learned, videos, Policies(patches="random", draw=draw)).focus_actions, 64
        )
        for draw in range(50)
    ]
    corners, sides = (torch.cat(each).flatten(0, 1) for each in zip(*boxes, strict=True))
    torch.testing.assert_close(sides, torch.full_like(sides, 32.0))
    assert 0 <= corners.min() < 2 and 30 < corners.max() <= 32
    torch.testing.assert_close(corners.mean(0), torch.full((2,), 16.0), atol=2.5, rtol=0)


def test_frames_chosen_otherwise_get_the_actions_that_the_spatial_policy_has_for_them(model, learned):
    every_frame = dataclasses.replace(learned, focus_indices=torch.arange(6).expand(2, -1))
    actions = decide_otherwise(model, every_frame, VIDEOS, Policies()).focus_actions
    decision = decide_otherwise(model, learned, VIDEOS, Policies(frames="uniform"))
    assert torch.equal(decision.focus_actions, actions[:, [1, 4]])


@pytest.mark.parametrize("policies", [Policies(patches="random"), Policies(frames="random")], ids=str)
def test_what_a_video_draws_depends_on_its_number_seed_and_draw_alone(model, learned, policies):
    def choice(video: int, policies: Policies, others: tuple[int, ...] = ()) -> torch.Tensor:
        rows = [0] * (1 + len(others))
        batch = type(learned)(*(value[rows] for value in vars(learned).values()))
        decision = decide_otherwise(model, batch, torch.tensor([*others, video]), policies)
        return torch.cat([decision.focus_indices[-1].float(), decision.focus_actions[-1].flatten()])

    assert torch.equal(choice(5, policies), choice(5, policies, others=(2, 9)))
    found = [choice(video, policies) for video in range(20)]
    for other in ({"seed": 1}, {"draw": 1}):
        changed = [choice(video, dataclasses.replace(policies, **other)) for video in range(20)]
        assert any(not torch.equal(*pair) for pair in zip(found, changed, strict=True))
    assert any(not torch.equal(found[0], each) for each in found)


def test_random_frames_do_not_move_random_patches(model, learned):
    every_frame = dataclasses.replace(learned, focus_indices=torch.arange(6).expand(2, -1))
    patches = decide_otherwise(model, every_frame, VIDEOS, Policies(patches="random")).focus_actions
    both = decide_otherwise(model, learned, VIDEOS, Policies(patches="random", frames="random"))
    expected = patches.gather(1, both.focus_indices.unsqueeze(-1).expand(-1, -1, 4))
    assert torch.equal(both.focus_actions, expected)


def test_a_model_in_training_mode_and_unknown_policies_are_refused(small_model, frames):
    with pytest.raises(ValueError, match="training mode"):
        outputs_of_policies(small_model.train(), frames, VIDEOS, [Policies()])
    with pytest.raises(ValueError, match="unknown policy 'middle': choose from learned, random, center"):
        Policies(patches="middle")
    with pytest.raises(ValueError, match="unknown policy 'center': choose from learned, uniform, random"):
        Policies(frames="center")
