"""Whole runs of the training scripts, as a user starts them."""

import gc
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import main
import main_semiAMP
import test_early_exit_uni_adafocus
from dataset_config import get_dataset
from models.uni_adafocus import UniAdaFocus
from ops import engine
from ops.data.dataset import VideoDataset
from ops.data.loaders import TrainingBatches
from tests.shared import (
    IN_FORKS,
    SMALL,
    SMALL_OPTIONS,
    THIN,
    TOO_LONG,
    call,
    call_together,
    free_port,
    run_forked,
    run_script,
    the_error,
)

pytestmark = pytest.mark.usefixtures("thin_networks", "no_pictures")


@pytest.fixture
def options(dataset_folder, tmp_path):
    """Options of a small run on the small dataset."""
    return ["--dataset", "mine", "--data_dir", dataset_folder, "--root_log", tmp_path / "log", *SMALL_OPTIONS]


@pytest.fixture
def random_checkpoint(tmp_path):
    """A weights file of the small settings, with published names."""
    torch.manual_seed(1)
    model = UniAdaFocus(4, **SMALL)
    path = tmp_path / "random.pth.tar"
    torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, path)
    return path


def _run_folder(tmp_path, epochs, dataset="mine"):
    return tmp_path / "log" / f"UniAdaFocus_{dataset}_mbv2_segment6_e{epochs}"


def _records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(options, tmp_path):
    def weights(log, seed, workers):
        assert call(main.main, *options, "--epochs", 1, "--root_log", log, "--seed", seed, "--workers", workers) == 0
        state = torch.load(log / "UniAdaFocus_mine_mbv2_segment6_e1" / "ckpt.pth.tar", weights_only=True)["state_dict"]
        return torch.cat([value.flatten().double() for value in state.values()])

    first = weights(tmp_path / "first", 5, 0)
    assert torch.equal(first, weights(tmp_path / "second", 5, 2))
    assert not torch.equal(first, weights(tmp_path / "third", 6, 0))


def test_a_second_run_loses_nothing_of_the_first(options, tmp_path, capsys):
    for _ in range(2):
        assert call(main.main, *options, "--epochs", 1) == 0
    folder = _run_folder(tmp_path, 1)
    assert f"An earlier run's files are now in {folder / 'earlier_1'}" in capsys.readouterr().out
    assert (folder / "earlier_1" / "ckpt.pth.tar").is_file() and len(_records(folder / "earlier_1")) == 1
    assert len(_records(folder)) == 1


def test_training_goes_on_where_a_checkpoint_stopped(options, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert call(main.main, *options, "--epochs", 2, "--root_log", whole) == 0
    # Stopped after one of two epochs: the schedule of two, cut short.
    assert call(main.main, *options, "--epochs", 2, "--root_log", parts) == 0
    folder = parts / "UniAdaFocus_mine_mbv2_segment6_e2"
    state = torch.load(folder / "ckpt.pth.tar", weights_only=True)
    assert state["epoch"] == 2

    resumed = call(main.main, *options, "--epochs", 2, "--root_log", parts, "--resume", folder / "ckpt.pth.tar")
    assert resumed == 0  # nothing left to do
    again = call(
        main.main, *options, "--epochs", 2, "--root_log", parts, "--resume", folder / "ckpt.pth.tar", "--start_epoch", 1
    )
    assert again == 0
    assert [record["epoch"] for record in _records(folder)] == [0, 1]


def test_a_run_that_gets_no_video_right_keeps_its_first_checkpoint_as_the_best(options, tmp_path, monkeypatch):
    zeros = {f"Acc_pred@{k}": 0.0 for k in (1, 5)}
    monkeypatch.setattr(engine, "evaluation_metrics", lambda *arguments: dict(zeros))
    assert call(main.main, *options, "--epochs", 2) == 0
    best = torch.load(_run_folder(tmp_path, 2) / "ckpt.best.pth.tar", weights_only=True)
    assert (best["epoch"], best["best_acc1"]) == (1, 0.0)
    resume = ["--resume", _run_folder(tmp_path, 2) / "ckpt.pth.tar", "--start_epoch", 1]
    assert call(main.main, *options, "--epochs", 2, *resume) == 0
    again = torch.load(_run_folder(tmp_path, 2) / "ckpt.best.pth.tar", weights_only=True)
    assert again["epoch"] == 1  # an equal one does not take its place


@pytest.mark.parametrize(
    ("metric", "main_metric", "other"), [("accuracy", "Acc_pred@1", "Acc_pred@5"), ("map", "mAP", "smAP")]
)
def test_the_best_checkpoint_is_that_of_the_largest_main_metric(
    metric, main_metric, other, options, tmp_path, monkeypatch
):
    figures = iter(
        [{main_metric: 10.0, other: 90.0}, {main_metric: 30.0, other: 50.0}, {main_metric: 20.0, other: 80.0}]
    )
    monkeypatch.setattr(engine, "evaluation_metrics", lambda *arguments: next(figures))
    assert call(main.main, *options, "--metric", metric, "--batch_size", 4, "--epochs", 3) == 0
    for name, epoch in (("ckpt.best.pth.tar", 2), ("ckpt.pth.tar", 3)):
        state = torch.load(_run_folder(tmp_path, 3) / name, weights_only=True)
        assert (state["epoch"], state["best_acc1"]) == (epoch, 30.0)


def test_every_epoch_has_an_order_frames_and_crops_of_its_own_which_the_seed_decides(
    options, dataset_folder, monkeypatch
):
    seen, original = {0: [], 1: []}, engine.train_steps

    def watched(state, batches, **settings):
        def passed_on():
            for batch in batches:
                seen[state.epoch].append(batch)
                yield batch

        return original(state, passed_on(), **settings)

    monkeypatch.setattr(engine, "train_steps", watched)
    assert call(main.main, *options, "--epochs", 2, "--seed", 5) == 0
    data = VideoDataset(get_dataset("mine", dataset_folder), "train", 6, 64, training=True, seed=5)
    order = TrainingBatches(4, batch_size=2, seed=5)
    for epoch, batches in seen.items():
        data.set_epoch(epoch)
        order.set_epoch(epoch)
        assert [videos.tolist() for _, _, videos in batches] == list(order)
        for frames, _, videos in batches:
            assert torch.equal(frames, torch.stack([data[video][0] for video in videos.tolist()]))
    assert seen[0][0][2].tolist() != seen[1][0][2].tolist()


def test_an_evaluation_sees_fixed_frames_and_the_centre_in_the_pixels_of_the_decoder_asked_for(
    options, random_checkpoint, dataset_folder, monkeypatch
):
    seen, original = [], engine.collect
    monkeypatch.setattr(engine, "collect", lambda model, batches, *rest: original(model, watched(batches), *rest))

    def watched(batches):
        for frames, labels, videos in batches:
            seen.append(frames)
            yield frames, labels, videos

    config, clips = get_dataset("mine", dataset_folder), {}
    for decode in ("fast", "pillow"):
        seen.clear()
        assert call(main.main, *options, "--evaluate", "--resume", random_checkpoint, "--decode", decode) == 0
        data = VideoDataset(config, "val", 6, 64, training=False, backend=decode)
        clips[decode] = torch.stack([data[video][0] for video in range(5)])
        assert torch.equal(torch.cat(seen), clips[decode])
    assert not torch.equal(clips["fast"], clips["pillow"])


def test_two_nodes_train_together_through_the_published_launcher(options, tmp_path):
    """Two launchers, as on two machines, over the loopback interface: one as published, the other by its new name."""
    nodes = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    program = tmp_path / "second.py"
    program.write_text("import main\nassert main.main() == 0\n")  # the launcher waits for one that leaves by `sys.exit`
    run = [*options, "--epochs", 1]
    with ThreadPoolExecutor() as pool:
        launcher = ["-m", "torch.distributed.launch", *nodes, "--node_rank=0", *THIN]
        starting = pool.submit(run_script, "main.py", *run, launcher=launcher)
        second = run_forked("-m", "torch.distributed.run", *nodes, "--node_rank=1", *IN_FORKS, program, *run)
        first = starting.result()
    assert "2 process(es) on cpu, batch 2" in first.stdout and "Done: best" in first.stdout
    assert first.stdout.count("Testing Results:") == 1 and second.stdout == ""
    assert "setup.py" not in first.stderr  # PyTorch warns of what it has renamed
    folder = _run_folder(tmp_path, 1)
    assert len(_records(folder)) == 1 and torch.load(folder / "ckpt.pth.tar", weights_only=True)["epoch"] == 1


def test_two_processes_give_the_metrics_of_one(options, random_checkpoint, tmp_path, capsys):
    evaluate = [*options, "--evaluate", "--resume", random_checkpoint, "--save_predictions"]
    assert call(main.main, *evaluate, tmp_path / "one.npz") == 0
    alone = capsys.readouterr().out
    together = call_together(main.main, *evaluate, tmp_path / "two.npz").stdout

    def metrics(printed):
        return re.findall(r"(\S+@\d) (\S+)", printed)

    assert len(metrics(alone)) == 14 and metrics(alone) == metrics(together)
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        np.testing.assert_allclose(one["logits"], two["logits"], atol=1e-3)
        assert one["video"].tolist() == two["video"].tolist()


def test_fine_tuning_takes_what_fits_and_names_what_starts_anew(
    options, random_checkpoint, dataset_folder, tmp_path, capsys
):
    (dataset_folder / "classInd.txt").write_text("".join(f"class {n}\n" for n in range(7)))
    still = ["--lr", "1e-30", "--weight_decay", "0"]
    assert call(main.main, *options, *still, "--epochs", 1, "--init_from", random_checkpoint) == 0
    printed = capsys.readouterr().out
    anew = re.search("newly initialised: (.*)", printed).group(1).split(", ")
    assert "aux_fc.weight" in anew and "classifier.local_classifiers.1.1.bias" in anew
    assert not any(name.startswith(("global_CNN.", "local_CNN.", "spatial_policy.")) for name in anew)
    before = torch.load(random_checkpoint)["state_dict"]
    after = torch.load(_run_folder(tmp_path, 1) / "ckpt.pth.tar", weights_only=True)["state_dict"]
    name = "module.spatial_policy.encoder.3.weight"
    assert torch.equal(before[name], after[name]) and len(after["module.aux_fc.bias"]) == 7


def test_semi_amp_trains_with_half_precision_backbones_and_evaluates_in_float32(options, random_checkpoint, tmp_path):
    results = {}
    for script in (main, main_semiAMP):
        root = tmp_path / script.__name__
        extra = ["--root_log", root, "--save_predictions", root / "predictions.npz"]
        half = ["--amp_dtype", "bfloat16"] if script is main_semiAMP else []  # also where the CPU imitates it
        assert call(script.main, *options, "--epochs", 1, *extra, *half) == 0
        record = _records(root / "UniAdaFocus_mine_mbv2_segment6_e1")[0]
        call(script.main, *options, *extra, "--evaluate", "--resume", random_checkpoint)
        results[script] = record["train"]["loss"], np.load(root / "predictions.npz")["logits"]
    losses, logits = zip(*results.values(), strict=True)
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.5)
    assert np.array_equal(*logits)


def test_a_dataset_with_several_labels_reports_map(make_dataset, tmp_path, capsys):
    folder = make_dataset(
        {"a": [0], "b": [1, 2], "c": [3]}, {"d": [0, 1], "e": [2, 3, 1], "f": [3], "g": [0]}, names=(
            "classInd.txt", "actnet_train_split.txt", "actnet_val_split.txt"
        )
    )  # fmt: skip
    done = call(
        main.main, "--dataset", "actnet", "--data_dir", folder, "--root_log", tmp_path / "log", *SMALL_OPTIONS,
        "--epochs", 1,
    )  # fmt: skip
    assert done == 0
    names = ("mAP", "smAP", "Cat_mAP", "Global_mAP", "Local_mAP", "Temporal_mAP", "Spatial_mAP")
    record = _records(_run_folder(tmp_path, 1, "actnet"))[0]
    assert set(names) <= set(record["val"])
    assert "Best mAP:" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_the_log_says_how_many_classes_the_map_leaves_out(options, dataset_folder, tmp_path, capsys):
    (dataset_folder / "val_split.txt").write_text("val0,8,0\nval1,8,1,2\n")
    line = "warning: 1 of 4 classes have no video among these 2; they are left out of the mAP\n"
    assert call(main.main, *options, "--metric", "map", "--epochs", 2) == 0
    folder = _run_folder(tmp_path, 2)
    assert (folder / "log.csv").read_text().count(line) == 2  # one for each evaluation
    evaluate = [*options, "--epochs", 2, "--evaluate", "--resume", folder / "ckpt.pth.tar"]
    assert call(main.main, *evaluate, "--metric", "map") == 0
    assert (folder / "log_eval.csv").read_text().count(line) == 1
    assert call(main.main, *evaluate, "--metric", "map", "--set_ablation", "--eval_suffix", "ablation") == 0
    assert (folder / "log_ablation.csv").read_text().count(line) == 1
    assert call(main.main, *evaluate, "--metric", "accuracy", "--eval_suffix", "accuracy") == 0
    assert "left out of the mAP" not in (folder / "log_accuracy.csv").read_text()
    assert capsys.readouterr().err == ""


def test_minik_names_may_hold_spaces(make_dataset, tmp_path):
    folder = make_dataset(
        {"riding a bike/clip one": [0], "b": [1]}, {"riding a bike/clip two": [0], "c": [1]}, separator=" ",
        names=("minik_classInd.txt", "mini_train_videofolder.txt", "mini_val_videofolder.txt"),
    )  # fmt: skip
    assert call(
        main_semiAMP.main, "--dataset", "minik", "--data_dir", folder, "--root_log", tmp_path / "log", *SMALL_OPTIONS,
        "--epochs", 1, "--save_predictions", tmp_path / "predictions.npz",
    ) == 0  # fmt: skip
    assert np.load(tmp_path / "predictions.npz")["video"].tolist() == ["riding a bike/clip two", "c"]


def test_a_loss_that_is_not_finite_stops_the_run_with_where_and_what(options, tmp_path, capsys):
    assert call(main.main, *options, "--epochs", 30, "--lr", "1e12", "--print-freq", 2) == 2
    message = the_error(capsys.readouterr().err)
    assert re.search(
        r"loss is not finite in epoch \d+, step \d: loss \S+, cat .*; videos of the batch: train\d", message
    )


def test_a_broken_video_stops_the_run_by_name(options, dataset_folder, monkeypatch, capsys):
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    for frame in (dataset_folder / "frames" / "train2").iterdir():
        frame.write_bytes(b"not a picture")
    for workers in (0, 1):
        assert call(main.main, *options, "--epochs", 1, "--workers", workers) == 2
        assert "train2" in the_error(capsys.readouterr().err)
    gc.collect()  # waits that long for the worker; a process that ends does not


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data_dir", "nowhere"], "nowhere"),
        (["--dataset", "actnet"], "actnet_train_split.txt"),
        (["--resume", "nowhere.pth.tar"], "nowhere.pth.tar"),
        (["--resume", __file__], "test_main.py"),
        (["--batch_size", "16"], "--batch_size 16"),
        (["--pretrained", "imagenet", "--glance_ckpt_path", "nowhere.pth"], "nowhere.pth"),
        (["--init_from", __file__], "test_main.py"),
        (["--init_from", "a", "--resume", "b"], "--init_from"),
        (["--num_segments", "7"], "--num_glance_segments 3"),
        (["--metric", "f1"], "invalid choice: 'f1'"),
        (["--dataset", "x" * 300], "cannot be used in a folder name"),
        (["--resume", "x" * 300], TOO_LONG),
    ],
)
def test_wrong_input_is_one_line_and_leaves_no_log_folder(change, message, options, dataset_folder, tmp_path, capsys):
    if "--dataset" in change:
        (dataset_folder / "train_split.txt").unlink()
    assert call(main.main, *options, "--epochs", 1, *change) == 2
    assert message in the_error(capsys.readouterr().err)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("extra", [[], ["--evaluate"]])
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/proc/p.npz", "No such file or directory"),
        ("/proc/made/p.npz", "No such file or directory"),
        ("file/p.npz", "Not a directory"),
        ("file/made/p.npz", "Not a directory"),
        ("made/" + "x" * 250, "File name too long"),
    ],
)
def test_predictions_that_cannot_be_written_are_found_before_the_work(
    place, reason, extra, options, random_checkpoint, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    given = [*extra, "--resume", random_checkpoint] if extra else ["--epochs", 1]
    assert call(main.main, *options, *given, "--save_predictions", tmp_path / place) == 2
    captured = capsys.readouterr()
    assert the_error(captured.err) == f"error: cannot write {tmp_path / place}: {reason}"
    assert captured.out == "" and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("train0,8", "train_split.txt:2"),
        ("train0,eight,0", "train_split.txt:2"),
        ("train0,8,4", "train_split.txt:2"),
        ("../train0,8,0", "train_split.txt:2"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(row, message, options, dataset_folder, capsys):
    (dataset_folder / "train_split.txt").write_text(f"train1,8,1\n{row}\ntrain2,8,2\n")
    assert call(main.main, *options, "--epochs", 1) == 2
    assert message in the_error(capsys.readouterr().err)


@pytest.mark.parametrize(
    "change", [("patch_size", 48, 32), ("num_segments", 3, 6), ("temperature", 3.0, 1.0), ("decode", "pillow", "fast")]
)
def test_an_evaluation_with_other_sizes_than_those_trained_with_says_so(change, options, tmp_path, capsys):
    name, value, before = change
    assert call(main.main, *options, "--epochs", 1) == 0
    path = _run_folder(tmp_path, 1) / "ckpt.pth.tar"
    capsys.readouterr()
    for script in (main, test_early_exit_uni_adafocus):
        evaluate = ["--evaluate", "--resume", path, "--root_log", tmp_path / script.__name__]
        assert call(script.main, *options, *evaluate, "--metric", "accuracy") == 0  # which the dataset has anyhow
        assert "warning: not as" not in capsys.readouterr().out
        assert call(script.main, *options, *evaluate, f"--{name}", value) == 0
        assert f"warning: not as in the checkpoint: {name}: {before} -> {value}\n" in capsys.readouterr().out


def test_a_checkpoint_of_other_sizes_is_refused_with_both_shapes(options, random_checkpoint, dataset_folder, capsys):
    (dataset_folder / "classInd.txt").write_text("".join(f"class {n}\n" for n in range(7)))
    assert call(main.main, *options, "--epochs", 1, "--evaluate", "--resume", random_checkpoint) == 2
    error = the_error(capsys.readouterr().err)
    assert "global_CNN_fc.1.weight is [4, 1280] in the file, [7, 1280] in the model" in error


def test_offline_without_weights_is_one_line_that_names_both_places(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    assert call(main.main, *options, "--epochs", 1, "--pretrained", "imagenet") == 2
    printed = capsys.readouterr().err.splitlines(keepends=True)
    error = the_error("".join(line for line in printed if not line.startswith("Downloading: ")))  # PyTorch 2.6 says so
    assert "ckpt/mobilenetv2_1.0-f2a8633.pth.tar" in error and str(tmp_path / "hub") in error
    assert "--pretrained none" in error


def test_two_processes_say_a_mistake_once(options):
    done = call_together(main.main, *options, "--resume", "nowhere.pth.tar", check=False)
    assert done.returncode == 2 and "nowhere.pth.tar" in the_error(done.stderr)
    done = call_together(main.main, *options, "--batch_size", "3", check=False)
    assert done.returncode == 2 and "--batch_size 3" in the_error(done.stderr)


def test_more_processes_than_gpus_is_an_error(options, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert call(main.main, *options, "--epochs", 1) == 2
    assert "2 processes on this machine but only 1 GPUs" in the_error(capsys.readouterr().err)


def test_processes_that_cannot_meet_are_one_line(options, monkeypatch, capsys):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():  # of another program's launcher
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert call(main.main, *options) == 2
    assert "(Error initializing torch.distributed" in the_error(capsys.readouterr().err)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with socket.create_server(("localhost", 0)) as taken:
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        assert call(main.main, *options) == 2
    assert "--master_port" in the_error(capsys.readouterr().err)
