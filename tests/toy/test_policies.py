"""ops/toy/policies.py and ops/toy/truth.py: the policies against what is known of the toy videos."""

import dataclasses
import json
from collections import defaultdict

import numpy as np
import pytest
import torch

from dataset_config import get_dataset
from models.ablation import decide_otherwise
from ops.data.dataset import VideoDataset
from ops.toy.dataset import ToySettings, make_toy_dataset
from ops.toy.policies import DRAWS, PATCHES, area, intersection, main, patches_of, policy_report
from ops.toy.truth import ToyTruth, box_in_square
from ops.utils.errors import UserError
from tests.shared import call, the_error, thin_reference_model

SIZES = {"num_segments": 16, "num_glance_segments": 4, "num_focus_segments": 2, "patch_size": 32, "input_size": 64}
pytestmark = pytest.mark.usefixtures("thin_networks")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory):
    """Three training and four validation videos of 16 frames, wider than high."""
    folder = tmp_path_factory.mktemp("toy")
    make_toy_dataset(folder, ToySettings(num_train=3, num_val=4, num_classes=3, frames=16, width=168))
    return folder


@pytest.fixture(scope="module")
def dataset(toy_folder):
    config = get_dataset("toy", toy_folder)
    return VideoDataset(config, "val", SIZES["num_segments"], SIZES["input_size"], training=False)


@pytest.fixture(scope="module")
def truth(dataset):
    return ToyTruth(dataset)


@pytest.fixture(scope="module")
def model():
    return thin_reference_model(3, **SIZES)


def test_a_box_goes_through_the_resizing_and_the_centre_crop():
    # 96 x 112 -> short side 73, so 85 x 73, of which 64 x 64 begins at (10, 4).
    width, height = 112, 96
    left, top, right, bottom = box_in_square((56, 48, 84, 72), width, height, 64)
    assert (left, right) == pytest.approx((56 * 85 / 112 - 10, 84 * 85 / 112 - 10))
    assert (top, bottom) == pytest.approx((48 * 73 / 96 - 4, 72 * 73 / 96 - 4))
    # 256 x 256 frames are only cropped, by 16 on each side.
    assert box_in_square((20, 30, 100, 110), 256, 256, 224) == [4, 14, 84, 94]


def test_a_box_is_cut_off_at_the_edges_and_gone_beyond_them():
    assert box_in_square((0, 100, 56, 250), 256, 256, 224) == [0, 84, 40, 224]
    assert box_in_square((0, 100, 16, 250), 256, 256, 224) == [0, 0, 0, 0]


def test_the_badge_is_where_the_truth_says(toy_folder):
    """Its colour stands out: classes 0, 1, 2 are red, green and blue."""
    dataset = VideoDataset(get_dataset("toy", toy_folder), "val", 8, 128, training=False)
    truth = ToyTruth(dataset)
    for video in range(len(dataset)):
        frames, boxes = dataset[video][0].int(), truth.boxes(video)
        colour = int(dataset.labels[video, 0])
        for frame, (left, top, right, bottom), shown in zip(frames, boxes.tolist(), truth.in_span(video), strict=True):
            vivid = (frame[colour] - frame[[c for c in range(3) if c != colour]].amax(0) > 70).float()
            inside = vivid[round(top) : round(bottom), round(left) : round(right)]
            if right - left > 8 and bottom - top > 8:
                assert shown
                assert inside.mean() > 0.1 and inside.mean() > 5 * (vivid.sum() - inside.sum()) / vivid.numel()


def test_segments_in_the_time_span_are_those_whose_frames_are(toy_folder, dataset, truth):
    known = json.loads((toy_folder / "truth.json").read_text())
    for video in range(len(dataset)):
        numbers = range(1, 17)  # all 16 frames
        badge = known[dataset.video_name(video)]
        assert truth.in_span(video).tolist() == [badge["first_frame"] <= n <= badge["last_frame"] for n in numbers]
        nowhere = (0, 0, 0, 0)
        expected = [box_in_square(badge["boxes"].get(str(number), nowhere), 168, 144, 64) for number in numbers]
        assert truth.boxes(video).tolist() == pytest.approx(np.array(expected), abs=1e-4)


def test_the_share_of_a_box_inside_a_patch():
    boxes = torch.tensor([[10.0, 10, 20, 30]]).expand(4, -1)
    patches = torch.tensor([[0.0, 0, 64, 64], [10, 20, 20, 40], [15, 20, 40, 64], [30, 10, 40, 30]])
    assert (area(intersection(boxes, patches)) / area(boxes)).tolist() == [1, 0.5, 0.25, 0]


def test_policies_that_know_the_truth_get_full_marks_and_chance_does_not(model, dataset, truth, monkeypatch):
    """Stand-ins for learned policies: two frames within the span, and patches that begin at the badge's corner."""
    decide, batches = model.decide, iter([range(4)])

    def knowing(glance):
        videos = next(batches)
        indices = torch.stack([truth.in_span(video).nonzero().flatten()[:2] for video in videos])
        corner = torch.stack([truth.boxes(video)[index, :2] for video, index in zip(videos, indices, strict=True)])
        base = torch.full_like(corner, (32 - 64 * 96 / 224) / (64 - 64 * 96 / 224))
        actions = torch.cat([corner.flip(-1).clamp_max(32) / 32, base], dim=-1)
        return dataclasses.replace(decide(glance), focus_indices=indices, focus_actions=actions)

    drawn = defaultdict(set)

    def noting(model, learned, videos, policies):
        drawn[policies.patches, policies.frames].add(policies.draw)
        assert videos.tolist() == [0, 1, 2, 3]
        return decide_otherwise(model, learned, videos, policies)

    monkeypatch.setattr("ops.toy.policies.decide_otherwise", noting)
    monkeypatch.setattr(model, "decide", knowing)
    monkeypatch.setattr("ops.toy.policies.patches_of", _with_given_patches)
    report = policy_report(model, dataset, truth, CPU)
    assert report["in_span"]["learned"] == 100
    assert report["in_span"]["uniform"] < 80 and 10 < report["in_span"]["random"] < 80
    assert report["covered"]["learned"] == pytest.approx(100, abs=0.1)
    assert report["covered"]["random, base size"] < 80 and report["covered"]["random, learned size"] < 80
    assert report["patch_area"]["learned"] == pytest.approx(25) == report["patch_area"]["center, base size"]
    assert drawn["random", "learned"] == drawn["learned", "random"] == set(range(DRAWS))
    assert report["counts"]["focus_frames"] == 8 and 0 < report["counts"]["showing_the_badge"] <= 8


def _with_given_patches(model, learned, videos, name, draw):
    if name != "learned":
        return patches_of(model, learned, videos, name, draw)
    corner = learned.focus_actions[..., :2] * 32
    return torch.cat([corner.flip(-1), corner.flip(-1) + 32], dim=-1)


@torch.no_grad()
def test_patches_to_compare_with_have_the_learned_or_the_base_size(model, dataset):
    learned = model.decide(model.glance(torch.stack([dataset[video][0] for video in (0, 1)])))
    sides = {}
    for name in PATCHES:
        patches = patches_of(model, learned, torch.tensor([0, 1]), name, draw=0)
        assert patches.min() >= -1e-4 and patches.max() <= 64 + 1e-4
        sides[name] = patches[..., 2:] - patches[..., :2]
        if name == "learned":
            corner = learned.focus_actions[..., :2].flip(-1) * (64 - sides[name])
            torch.testing.assert_close(patches[..., :2], corner)
        if name.startswith("center"):
            torch.testing.assert_close(patches[..., :2], 64 - patches[..., 2:])
    for place in ("random", "center"):
        torch.testing.assert_close(sides[f"{place}, learned size"], sides["learned"])
        torch.testing.assert_close(sides[f"{place}, base size"], torch.full((2, 2, 2), 32.0))


def test_the_command_prints_and_writes_the_report(model, toy_folder, tmp_path, capsys):
    options = {"dataset": "toy", "data_dir": "elsewhere", "workers": 0, **SIZES}
    torch.save({"state_dict": model.state_dict(), "options": options}, tmp_path / "toy.pth.tar")
    given = ["--resume", tmp_path / "toy.pth.tar", "--data_dir", toy_folder]
    assert call(main, *given, "--json", tmp_path / "report.json") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["in_span"]) == ["learned", "uniform", "random"] and list(report["covered"]) == list(PATCHES)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "4 videos with 8 focus frames; percent"
    for name, value in report["in_span"].items():
        assert f"  {name:22s} {value:6.1f}" in printed
    for name, value in report["covered"].items():
        area = report["patch_area"][name]
        assert f"  {name:22s} {value:6.1f}   the patch is {area:.1f} of the frame" in printed


def test_checkpoints_and_data_without_a_truth_are_refused(model, toy_folder, tmp_path, capsys):
    path = tmp_path / "other.pth.tar"
    torch.save({"state_dict": model.state_dict(), "options": SIZES | {"dataset": "mine"}}, path)
    assert call(main, "--resume", path) == 2
    assert "was not made with --dataset toy" in the_error(capsys.readouterr().err)

    config = get_dataset("toy", toy_folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    elsewhere = dataclasses.replace(config, val_split=elsewhere / "val_split.txt")
    elsewhere.val_split.write_text("val_0001,16,0\nunknown,16,1\n")
    data = VideoDataset(elsewhere, "val", 8, 64, training=False)
    with pytest.raises(UserError, match=r"truth.json: No such file"):
        ToyTruth(data)
    (elsewhere.val_split.parent / "truth.json").write_text((toy_folder / "truth.json").read_text())
    with pytest.raises(UserError, match=r"truth.json does not know video 'unknown'"):
        ToyTruth(data)
    (elsewhere.val_split.parent / "truth.json").write_text('{"val_0001": ')
    with pytest.raises(UserError, match=r"truth.json is damaged"):
        ToyTruth(data)
