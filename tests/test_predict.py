"""predict.py as a user calls it."""

import contextlib
import csv
import io
import json
import os
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import predict
from models.uni_adafocus import UniAdaFocus
from ops.early_exit.curve import compute_curves, exit_decisions
from ops.early_exit.thresholds import Weights, file_hash, write_thresholds
from ops.flops import exit_gflops
from ops.predict import run as predict_run
from ops.predict.batches import SegmentReader, VideoBatch
from ops.predict.output import Table
from ops.predict.paths import find
from ops.predict.run import find_device
from ops.utils.errors import UserError
from ops.utils.files import whole_file
from ops.video.extraction import extract_videos
from ops.video.frame_folders import FrameSettings
from ops.video.frames import VideoFile
from tests.shared import SMALL, TOO_LONG, call, reference_weights, run_script, the_error
from tests.thin import thin_networks
from tests.videos import make_colourful_video

pytestmark = pytest.mark.usefixtures("thin_networks")
SETTINGS = {name: SMALL[name] for name in ("num_segments", "patch_size")}


@dataclass
class Home:
    """A folder with checkpoints, thresholds, class names and five videos, and what is expected of these."""

    folder: Path
    logits: torch.Tensor  # [5, 3, 4], of all exits
    thresholds: dict[int, np.ndarray]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    with thin_networks():
        model = UniAdaFocus(4, **SMALL).eval()
    model.load_state_dict(reference_weights(model))
    state = {"module." + name: value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "options": SETTINGS | {"temperature": 1.0}}, folder / "ours.pth.tar")
    torch.save({"epoch": 3, "state_dict": state, "best_acc1": 80.7}, folder / "published.pth.tar")
    (folder / "classInd.txt").write_text("red\ngreen\nblue, dark\nblue, light\n")
    (folder / "short.txt").write_text("red\ngreen\nblue\n")
    for seed, name in enumerate(("a", "b c", "d'\"\n", "sub/e", "sub/f")):
        make_colourful_video(folder / "videos" / f"{name}.mp4", seed, 8 + 5 * seed)

    with ThreadPoolExecutor(1) as threads:
        readers = [SegmentReader(VideoFile(video.path), model) for video in find([str(folder / "videos")])]
        batch = VideoBatch(readers, threads)
        clips = batch.fetch(torch.arange(5), torch.arange(6).expand(5, -1)).unflatten(0, (5, -1))
    with torch.no_grad():
        logits = model(clips).step_logits[:, SMALL["num_glance_segments"] - 1 :]
    gflops = exit_gflops(model)
    curves = compute_curves(logits, logits, torch.zeros(5, 1).long(), gflops, "accuracy", seed=0)
    # Thresholds are values of these videos: a little lower, so that rounding moves nobody.
    points = curves.points["confidence"]
    points = [replace(point, thresholds=point.thresholds - np.float32(1e-3)) for point in points]
    curves = replace(curves, points={"confidence": points})
    weights = Weights(folder / "ours.pth.tar", file_hash(folder / "ours.pth.tar"))
    write_thresholds(folder / "early_exit_confidence.json", curves, "confidence", "train", model, weights)
    return Home(folder, logits, {point.p: point.thresholds for point in points})


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.chdir(home.folder)


@dataclass
class Told:
    """What a call printed and wrote."""

    printed: str
    objects: list[dict]
    rows: list[dict[str, str]]


@pytest.fixture(scope="module")
def told(home, tmp_path_factory) -> Told:
    """All there is to say of the videos, with our checkpoint and without early exit."""
    folder = tmp_path_factory.mktemp("told")
    files = ["--json", folder / "p.json", "--csv", folder / "p.csv"]
    with (
        pytest.MonkeyPatch.context() as patch,
        thin_networks(),
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        patch.chdir(home.folder)
        assert call(predict.main, "videos", "--resume", "ours.pth.tar", "--classes", "classInd.txt", *files) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["p.csv", "p.json"]
    with open(folder / "p.csv", newline="") as file:
        return Told(printed.getvalue(), json.loads((folder / "p.json").read_text()), list(csv.DictReader(file)))


def predicted(capsysbinary, *arguments: object) -> list[dict]:
    """The objects of --json -."""
    assert call(predict.main, *arguments, "--json", "-") == 0
    return json.loads(capsysbinary.readouterr().out)


def test_a_folder_is_told_as_a_table(told):
    lines = told.printed.splitlines()
    assert lines[0] == "ours.pth.tar: 4 classes, all 2 patches of each video, on cpu"
    assert lines[1].split() == ["video", "patches", "GFLOPs", "seconds", "probability", "class"]
    assert [line[:12] for line in lines[2:-1:4]] == [
        "videos/a.mp4", "videos/b c.m", "videos/d'\"\\n", "videos/sub/e", "videos/sub/f",
    ]  # fmt: skip
    assert all(line.split()[-1] in ("red", "green", "dark", "light") for line in lines[2:-1])
    assert lines[-1].startswith("5 videos, 0 failed; on average 2.0 patches, ")


def test_programs_get_json_and_csv_of_the_same(home, told):
    videos = ["videos/a.mp4", "videos/b c.mp4", "videos/d'\"\n.mp4", "videos/sub/e.mp4", "videos/sub/f.mp4"]
    assert [item["video"] for item in told.objects] == videos
    probabilities = home.logits[:, -1].softmax(1)
    assert len(told.rows) == 5 * 4
    for place, row in enumerate(told.rows):
        item = told.objects[place // 4]
        one = item["predictions"][place % 4]
        assert (row["video"], int(row["rank"]), row["class"]) == (item["video"], place % 4 + 1, one["class"])
        assert float(row["probability"]) == pytest.approx(one["probability"], abs=1e-6)
        assert one["probability"] == pytest.approx(float(probabilities[place // 4, one["label"]]), abs=1e-4)
        assert one["class"] == ("red", "green", "blue, dark", "blue, light")[one["label"]]
        assert int(row["patches"]) == item["patches"] == 2


def test_standard_output_is_pure_where_a_program_reads_it(capsysbinary):
    assert call(predict.main, "videos/a.mp4", "--resume", "ours.pth.tar", "--csv", "-", "--topk", 1) == 0
    lines = capsysbinary.readouterr().out.decode().splitlines()
    assert lines[0].startswith("video,rank,class,label") and len(lines) == 2


def test_videos_get_what_their_frames_get(told, capsysbinary, tmp_path):
    extract_videos(Path("videos"), tmp_path / "frames", FrameSettings(jpeg_quality=100))
    of_frames = predicted(capsysbinary, tmp_path / "frames", "--resume", "ours.pth.tar")
    for video, frames in zip(told.objects, of_frames, strict=True):
        assert Path(frames["video"]).name == Path(video["video"]).stem
        by_label = {one["label"]: one["probability"] for one in frames["predictions"]}
        for one in video["predictions"]:  # JPEG moves them; another video's are up to 1 away
            assert by_label[one["label"]] == pytest.approx(one["probability"], abs=0.15)


def test_videos_leave_where_the_thresholds_of_the_operating_point_say(home, capsysbinary):
    arguments = ["videos", "--resume", "ours.pth.tar", "--thresholds", "early_exit_confidence.json", "--batch_size", 2]
    gflops = json.loads(Path("early_exit_confidence.json").read_text())["exit_gflops"]
    for given, p in (([], 10), (["--operating_point", 19], 19)):
        objects = predicted(capsysbinary, *arguments, *given)
        exits = exit_decisions(home.logits, home.thresholds[p], "confidence").tolist()
        assert len(set(exits)) > 1
        assert [item["patches"] for item in objects] == exits
        assert [item["gflops"] for item in objects] == [round(gflops[k], 4) for k in exits]


def test_a_pattern_that_the_shell_left_alone_is_expanded(capsysbinary):
    objects = predicted(capsysbinary, "videos/**/[ef].mp4", "--resume", "ours.pth.tar", "--topk", 1)
    assert [item["video"] for item in objects] == ["videos/sub/e.mp4", "videos/sub/f.mp4"]
    assert objects[0]["predictions"][0]["class"] == str(objects[0]["predictions"][0]["label"])  # no --classes


def test_a_broken_file_is_one_line_and_the_rest_goes_on(capsys, tmp_path):
    (tmp_path / "bad\n.mp4").write_text("no video")
    arguments = [tmp_path / "bad\n.mp4", "videos/a.mp4", "--resume", "ours.pth.tar", "--json", tmp_path / "p.json"]
    assert call(predict.main, *arguments) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"failed: {tmp_path}/bad\\n.mp4: cannot be read as a video")
    assert "videos/a.mp4" in printed.out and printed.out.splitlines()[-1].startswith("1 videos, 1 failed; ")
    bad, good = json.loads((tmp_path / "p.json").read_text())
    assert bad["video"] == f"{tmp_path}/bad\n.mp4" and bad["error"].startswith("cannot be read as a video")
    assert good["patches"] == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_keeps_what_is_done_beside_the_file_that_was_to_hold_all(number, code, tmp_path, monkeypatch, capsys):
    rows = Table.rows

    def stop(*arguments):
        os.kill(os.getpid(), number)
        return rows(*arguments)

    monkeypatch.setattr(Table, "rows", stop)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    arguments = ["videos", "--resume", "ours.pth.tar", "--batch_size", 1, "--frame_rate", 5]
    assert call(predict.main, *arguments, "--json", tmp_path / "p.json") == code
    (kept,) = tmp_path.iterdir()
    assert kept.name == "p.partial.json" and [item["patches"] for item in json.loads(kept.read_text())] == [2]
    assert capsys.readouterr().err == f"the 1 of 5 videos that are done are in {kept}\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_published_checkpoint_needs_only_what_differs_from_the_published_settings(told, capsysbinary):
    settings = [text for name, value in SETTINGS.items() for text in (f"--{name}", value)]
    names = ["--classes", "classInd.txt"]
    published = predicted(capsysbinary, "videos", "--resume", "published.pth.tar", *names, *settings)
    assert [item["predictions"] for item in published] == [item["predictions"] for item in told.objects]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("absent.mp4 --resume ours.pth.tar", "absent.mp4: no such file or folder"),
        ("videos --resume absent.pth.tar", "checkpoint absent.pth.tar does not exist"),
        (f"videos --resume {'x' * 300}", TOO_LONG),
        (f"videos --resume ours.pth.tar --json {'x' * 300}", "File name too long"),
        ("videos --resume published.pth.tar", "patch_size (128) must be from 27 to 64"),
        ("videos --resume ours.pth.tar --patch_size 40", "--patch_size 40 contradicts checkpoint ours.pth.tar"),
        ("videos --resume ours.pth.tar --classes short.txt", "names 3 classes, but checkpoint ours.pth.tar knows 4"),
        ("videos --resume ours.pth.tar --operating_point 3", "--operating_point needs --thresholds"),
        ("videos --resume ours.pth.tar --device tpu", "--device tpu cannot be used"),
        ("videos --resume ours.pth.tar --json absent/p.json", "there is no folder absent"),
        ("videos --resume ours.pth.tar --json - --csv -", "would mix"),
        ("videos --resume ours.pth.tar --json p --csv ./p", "are both to be ./p"),
        ("videos --resume ours.pth.tar --json=", "an empty one was given"),
        ("videos --resume ours.pth.tar --frame_rate 20000", "-1 for the file's"),
        ("videos --resume ours.pth.tar --save_images classInd.txt", "classInd.txt: cannot be made"),
        (
            "videos --resume published.pth.tar --num_segments 6 --patch_size 32 "
            "--thresholds early_exit_confidence.json",
            "thresholds early_exit_confidence.json were found with another checkpoint",
        ),
        (
            "videos --resume ours.pth.tar --thresholds early_exit_confidence.json --operating_point 20",
            "have no operating point 20: choose one of 1, 2",
        ),
        ("videos --resume ours.pth.tar --thresholds classInd.txt", "holds no thresholds of early exit"),
        ("videos --resume ours.pth.tar --topk 0", "0 is below 1"),
        ("--resume ours.pth.tar", "the following arguments are required: VIDEO"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, arguments, expected):
    assert call(predict.main, *arguments.split()) == 2
    printed = capsys.readouterr()
    assert expected in the_error(printed.err) and printed.out == ""


def test_where_one_file_cannot_be_written_at_the_end_the_other_is(capsys, tmp_path, monkeypatch):
    def full(path):
        if path.name == "full.json":
            raise UserError(f"cannot write {path}: No space left on device")
        return whole_file(path)

    monkeypatch.setattr("ops.predict.output.whole_file", full)
    files = ["--json", tmp_path / "full.json", "--csv", tmp_path / "p.csv"]
    assert call(predict.main, "videos/a.mp4", "--resume", "ours.pth.tar", *files) == 2
    assert "full.json: No space left" in the_error(capsys.readouterr().err)
    assert "videos/a.mp4" in (tmp_path / "p.csv").read_text()


def test_a_link_is_written_through_and_a_pipe_gets_the_predictions(capsys, tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as threads:
        reading = threads.submit((tmp_path / "pipe").read_text)
        files = ["--json", tmp_path / "pipe", "--csv", tmp_path / "link.csv"]
        assert call(predict.main, "videos/a.mp4", "--resume", "ours.pth.tar", *files) == 0
        assert json.loads(reading.result())[0]["video"] == "videos/a.mp4"
    assert "videos/a.mp4" in (tmp_path / "real.csv").read_text() and (tmp_path / "link.csv").is_symlink()


def test_pictures_and_clips_are_named_in_the_json(capsysbinary, tmp_path):
    arguments = ["videos/a.mp4", "videos/d*", "--resume", "ours.pth.tar", "--classes", "classInd.txt"]
    objects = predicted(
        capsysbinary, *arguments, "--save_images", tmp_path / "pictures", "--save_video", tmp_path / "clips"
    )
    assert [Path(item["image"]).name for item in objects] == ["a.png", "d.png"]
    assert all(Path(item[kind]).stat().st_size > 1000 for item in objects for kind in ("image", "clip"))


def test_help_needs_no_torch_and_opens_with_commands():
    code = "import sys, predict\ntry:\n predict.main(['--help'])\nfinally:\n print('torch' in sys.modules)"
    done = run_script("-c", code, cwd=Path(predict.__file__).parent)
    assert done.stdout.rstrip().endswith("False") and "python predict.py VIDEO.mp4 FOLDER --resume" in done.stdout


def test_devices_that_no_network_runs_on_are_refused():
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="not supported"):
        find_device("meta")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda cannot be used"):
            find_device("cuda")


def test_half_precision_reaches_both_backbones_and_one_that_the_device_lacks_is_refused(home, monkeypatch, capsys):
    made = []
    original = predict_run.prepare_for_inference
    monkeypatch.setattr(predict_run, "prepare_for_inference", lambda *given: made.append(original(*given)) or made[-1])
    video, resume = home.folder / "videos" / "a.mp4", ["--resume", home.folder / "ours.pth.tar"]
    assert call(predict.main, video, *resume, "--eval_precision", "float16") == 2
    assert "float16 is for GPUs" in the_error(capsys.readouterr().err)
    monkeypatch.setattr("ops.predict.run.check_precision", lambda *_: None)  # slow without the instructions, but right
    assert call(predict.main, video, *resume, "--eval_precision", "bfloat16") == 0
    assert [network.dtype for network in (made[0].global_CNN, made[0].local_CNN)] == [torch.bfloat16] * 2


def test_options_of_decoding_and_of_batches_reach_the_predictor(monkeypatch):
    seen = []
    monkeypatch.setattr(predict_run, "Predictor", lambda *_, **given: seen.append(given) or (lambda videos: iter(())))
    options = "--decode pillow --height 99 --frame_rate 7 --batch_size 3 --topk 2"
    assert call(predict.main, "videos", "--resume", "ours.pth.tar", *options.split()) == 0
    settings = FrameSettings(height=99, frame_rate=7)
    assert seen == [{"decode": "pillow", "settings": settings, "batch_size": 3, "topk": 2, "illustrate": None}]
