"""ops/toy/pretrain.py: the networks learn what their stills show, and training starts from that."""

import numpy as np
import pytest
import torch
from torch import nn

import main
from models.uni_adafocus import UniAdaFocus
from ops import checkpoint
from ops.toy import pretrain
from ops.toy.dataset import ToySettings, make_toy_dataset
from ops.toy.scene import CLASSES
from ops.toy.stills import draw_stills
from tests.shared import SMALL, SMALL_OPTIONS, call, the_error


def test_tiles_without_a_badge_have_no_class_to_name(monkeypatch):
    """A network that is sure of a class everywhere loses more than one that knows nothing."""
    rates, step = [], torch.optim.AdamW.step

    def noting_step(optimizer, *arguments):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting_step)
    network, head = nn.Identity(), nn.Linear(3, 2)
    nothing = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.full((2, 1, 1, 2), 0.5)
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([5.0, 0.0])
    pretrain.train(network, head, [nothing] * 60, steps=60, rate=0.2, name="test")
    one, other = pretrain.tile_logits(network, head, nothing[0], 1)[0, 0, 0].tolist()
    assert abs(one - other) < 1
    assert rates[0] == pytest.approx(0.02) and max(rates) == rates[9] > 0.18  # a few steps to begin with
    assert rates[30] == pytest.approx(0.1) and rates[-1] < 0.001


def test_stills_are_normalised_as_frames_are():
    head = nn.Linear(3, 3)
    nn.init.eye_(head.weight)
    nn.init.zeros_(head.bias)
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1).expand(-1, -1, 4, 4)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert pretrain.tile_logits(nn.Identity(), head, images, 1).flatten().tolist() == pytest.approx(expected, rel=1e-4)


def test_the_glance_network_does_not_learn_rings_from_checks():
    """Its targets are even over the classes that look alike at a glance, and any of them is a right answer."""
    (images, full), (same_images, at_a_glance) = (
        draw_stills(np.random.default_rng(0), 8, 4, 11, at_a_glance=blurred) for blurred in (False, True)
    )
    assert torch.equal(images, same_images)
    alike = {**{label: [label] for label in range(6)}, 6: [6, 9], 9: [6, 9], 7: [7, 10], 10: [7, 10], 8: [8]}
    assert {CLASSES[label][1] for label in range(6)} == {"bars", "stripes"}
    assert all(CLASSES[6 + colour][0] == CLASSES[9 + colour][0] for colour in range(3))
    seen = set()
    for one, other in zip(full.flatten(0, 2), at_a_glance.flatten(0, 2), strict=True):
        names = alike[int(one.argmax())] if one.max() == 1 else range(11)
        seen.add(tuple(names))
        assert other.tolist() == pytest.approx([(number in names) / len(names) for number in range(11)])
    assert len(seen) == 10
    network, head = nn.Identity(), nn.Linear(3, 11)
    nn.init.zeros_(head.weight)
    head.bias.data = torch.eye(11)[9]  # always says class 9
    labels = full.argmax(-1)[full.amax(-1) == 1]
    share = 100 * float((labels == 9).float().mean())
    assert pretrain.accuracy(network, head, (images, full)) == pytest.approx(share)
    assert not network.training
    share += 100 * float((labels == 6).float().mean())
    assert pretrain.accuracy(network, head, (images, at_a_glance)) == pytest.approx(share)


def test_the_two_networks_learn_in_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "STEPS", pretrain.Steps(1, 1, 1, 2))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    glance, focus = pretrain.pretrain(tmp_path / "two.pth.tar", 9)
    assert 0 <= glance <= 100 and 0 <= focus <= 100
    model = UniAdaFocus(9, **SMALL)
    found = checkpoint.read(tmp_path / "two.pth.tar")
    left = checkpoint.load_for_fine_tuning(model, found.state_dict, found.path)
    assert {name.split(".")[0] for name in left} == {"spatial_policy", "temporal_policy", "classifier"}


def test_training_on_toy_videos_makes_the_weights_once_and_starts_from_them(
    thin_networks, no_pictures, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(pretrain, "STEPS", pretrain.Steps(2, 2, 2, 2))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})  # thin networks are this process's
    sizes = {"num_train": 2, "num_val": 2, "num_classes": 2, "frames": 6, "height": 48, "width": 48}
    make_toy_dataset(tmp_path / "data", ToySettings(**sizes))
    options = ["--dataset", "toy", "--data_dir", tmp_path / "data", "--root_log", tmp_path / "log", *SMALL_OPTIONS]
    path = tmp_path / "data" / "pretrained_mbv2_2_64_32.pth.tar"
    for _ in range(2):
        assert call(main.main, *options, "--pretrained", "toy", "--epochs", 1, "--lr", 1e-9) == 0
        assert f"weights of {path}" in capsys.readouterr().out
        made = path.stat().st_mtime_ns
    assert path.stat().st_mtime_ns == made
    before = checkpoint.read(path).state_dict
    (run,) = (tmp_path / "log").iterdir()
    after = checkpoint.read(run / "ckpt.pth.tar").state_dict
    for name in ("global_CNN_fc.1.weight", "aux_fc.weight", "local_CNN_fc.1.weight", "local_CNN.conv1.weight"):
        torch.testing.assert_close(after[name], before[name])


@pytest.mark.usefixtures("thin_networks")
def test_the_command_says_how_much_was_learned(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "STEPS", pretrain.Steps(2, 2, 2, 40))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})  # thin networks are this process's
    make_toy_dataset(tmp_path, ToySettings(num_train=1, num_val=1, num_classes=2, frames=4, height=48, width=48))
    assert call(pretrain.main, "--data_dir", tmp_path) == 0
    assert "pretrained_mbv2_2.pth.tar; new stills: glance network " in capsys.readouterr().out

    def learned(work, jobs, *_):
        assert [(job.part, job.num_classes, job.glance_arch, job.seed) for job in jobs] == [
            ("glance", 2, "res50", 3), ("focus", 2, "res50", 3)
        ]  # fmt: skip
        return zip(jobs, [(60.0, {}), (90.0, {})], strict=True)

    monkeypatch.setattr(pretrain, "run_jobs", learned)
    assert call(pretrain.main, "--data_dir", tmp_path, "--glance_arch", "res50", "--seed", 3) == 0
    assert "res50_2.pth.tar; new stills: glance network 60.0 %, focus network 90.0 %" in capsys.readouterr().out


def test_the_name_of_the_file_tells_sizes_apart(tmp_path):
    assert pretrain.file_in(tmp_path, 12, "mbv2") == tmp_path / "pretrained_mbv2_12.pth.tar"
    assert pretrain.file_in(tmp_path, 12, "mbv2", 128, 64) == tmp_path / "pretrained_mbv2_12.pth.tar"
    assert pretrain.file_in(tmp_path, 12, "res50", 224, 128) == tmp_path / "pretrained_res50_12_224_128.pth.tar"
    assert pretrain.file_in(tmp_path, 12, "mbv2", 128, 128) == tmp_path / "pretrained_mbv2_12_128_128.pth.tar"


@pytest.mark.usefixtures("thin_networks")
def test_stills_have_the_sizes_that_the_command_gives(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "STEPS", pretrain.Steps(1, 2, 1, 40))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})  # thin networks are this process's
    seen, trained, train = [], [], pretrain.train
    monkeypatch.setattr(pretrain, "train", lambda *given: trained.append(given[3:]) or train(*given))
    real = pretrain.tile_logits
    monkeypatch.setattr(pretrain, "tile_logits", lambda *given: seen.append(given[2].shape[-1]) or real(*given))
    make_toy_dataset(tmp_path, ToySettings(num_train=1, num_val=1, num_classes=2, frames=4, height=48, width=48))
    assert call(pretrain.main, "--data_dir", tmp_path, "--input_size", 96, "--patch_size", 50) == 0
    assert seen == [96] * 4 + [50] * 2
    assert trained == [
        (2, 0.003, "glance network"), (1, 0.001, "glance network, sparse stills"), (1, 0.0015, "focus network")
    ]  # fmt: skip
    assert "pretrained_mbv2_2_96_50.pth.tar; new stills: glance network " in capsys.readouterr().out
    assert call(pretrain.main, "--data_dir", tmp_path, "--input_size", 100) == 2
    assert "--input_size 100 must be a multiple of 32" in the_error(capsys.readouterr().err)
    assert call(pretrain.main, "--data_dir", tmp_path, "--patch_size", 200) == 2
    assert "--patch_size 200 must be from 55 to 128 for frames of 128" in the_error(capsys.readouterr().err)


def test_a_cell_counts_in_each_tile_with_what_lies_in_it():
    """Seven cells and four tiles, as for frames of 224: the means are those of pixels."""
    maps = torch.randn(2, 3, 7, 7)
    pixels = maps.repeat_interleave(8, -1).repeat_interleave(8, -2)  # 56 = 4 * 14
    expected = pixels.unflatten(-1, (4, 14)).unflatten(-3, (4, 14)).mean((-1, -3))
    torch.testing.assert_close(pretrain.means_of_tiles(maps, 4), expected)
    even = torch.randn(2, 3, 4, 4)
    assert torch.equal(pretrain.means_of_tiles(even, 2), nn.functional.adaptive_avg_pool2d(even, 2))


def test_a_gpu_has_its_stills_drawn_ahead_and_a_cpu_does_not(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)))
    asked = []
    monkeypatch.setattr(pretrain, "drawn_ahead", lambda *given: asked.append(given))
    for device in ("cpu", "cuda"):
        job = pretrain.Job("glance", 12, "mbv2", 1.75, 5, pretrain.STEPS, 1, torch.device(device))
        for draw in pretrain.DRAWN:
            pretrain.stills_of_steps(job, np.random.default_rng(0), draw, 10)
    assert asked == [(draw, 10, 12, 1.75, (5, 2, number), 8) for number, draw in enumerate(pretrain.DRAWN)]
