"""The command line: published commands, defaults, and one line for what is wrong."""

import importlib
import shlex

import pytest

from opts import TOY_DEFAULTS, add_early_exit_options, build_parser, parse_options, without_effect
from tests.shared import REFERENCE, call, run_script, the_error


def parse(text: str):
    return parse_options(build_parser("test"), shlex.split(text))


def published_commands() -> list[str]:
    """The arguments of each published command, after the name of its script."""
    text = (REFERENCE / "published_commands.txt").read_text().replace("\\\n", " ")
    return [line.split(".py", 1)[1] for line in text.splitlines() if ".py" in line]


def test_there_are_four_published_commands():
    assert len(published_commands()) == 4


@pytest.mark.parametrize("number", range(4))
def test_published_commands_are_understood_word_for_word(number):
    options = parse(published_commands()[number])
    assert options.num_segments == 48 and options.patch_size == 128
    assert options.dataset == ("actnet", "fcvid", "minik", "actnet")[number]
    assert options.batch_size == (32, 64, 48, 32)[number]
    assert options.lr == (0.002, 0.004, 0.003, 0.002)[number]
    assert options.ignored == ["--hidden_dim"]


def test_without_options_training_is_as_published_for_activitynet():
    published, ours = vars(parse(published_commands()[0])), vars(parse("--data_dir PATH_TO_DATASET --root_log LOG_DIR"))
    assert {name for name, value in ours.items() if value != published[name]} <= {"workers", "lr_steps", "ignored"}
    assert ours["lr_type"] == "cos"  # for which `lr_steps` mean nothing


@pytest.mark.parametrize(("script", "epochs"), [("main", 5), ("main_semiAMP", 1)])
def test_semi_amp_evaluates_every_epoch_and_main_every_fifth(script, epochs, monkeypatch):
    monkeypatch.setattr("ops.runner.run", lambda options, mixed_precision: options.eval_freq)
    assert importlib.import_module(script).main(["--data_dir", "x"]) == epochs


# Every option of the published parser, with a value as people write it.
PUBLISHED_OPTIONS = """
--data_dir x --root_log exp --dataset actnet --workers 16 --num_segments 48 --num_glance_segments 16
--num_focus_segments 16 --num_steps 1 --sample_sigma 0.015 --glance_arch mbv2 --glance_ckpt_path w.pth --dropout 0.2
--fc_dropout 0.2 --evaluate --resume c.pth.tar --eval_freq 1 --print-freq 20 --seed 1007 --epochs 50 --lr 0.002
--lr_type cos --lr_steps 50 100 --global_lr_ratio 0.5 --stn_lr_ratio 0.2 --temporal_lr_ratio 0.2
--classifier_lr_ratio 20.0 --KL_ratio 0.0 --temperature 1.0 --batch_size 32 --val_batch_size 64 --momentum 0.9
--weight_decay 2e-4 --input_size 224 --patch_size 96 --glance_size 96 --hidden_dim 1024 --stn_hidden_dim 128
--temporal_hidden_dim 64 --sample --save where --local_rank 0 --multi_sample_times 3 --eval_suffix eval
--scale_factor 0.3 --norm_ratio 1.0 --normal_sig 0.0 --fold_id 1
"""


@pytest.mark.parametrize("script", ["main", "main_semiAMP", "test_early_exit_uni_adafocus"])
def test_every_published_option_is_accepted_by_every_script(script, capsys):
    """All at once, up to the first thing that is wrong with the data folder."""
    module = importlib.import_module(script)
    assert call(module.main, *shlex.split(PUBLISHED_OPTIONS)) == 2
    assert the_error(capsys.readouterr().err).startswith("error: x: no such data folder")


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("script", ["main", "main_semiAMP", "test_early_exit_uni_adafocus"])
def test_every_published_command_starts_with_every_script(script, number, capsys):
    module = importlib.import_module(script)
    resume = ["--resume", "ckpt/actnet_p128.pth.tar", "--evaluate"]
    assert call(module.main, *shlex.split(published_commands()[number]), *resume) == 2
    assert "PATH_TO_DATASET: no such data folder" in the_error(capsys.readouterr().err)


def test_published_options_without_effect_are_named():
    ignored = {"--num_steps", "--sample_sigma", "--glance_size", "--hidden_dim", "--sample", "--save"}
    ignored |= {"--multi_sample_times", "--scale_factor", "--normal_sig", "--fold_id"}
    options = parse(PUBLISHED_OPTIONS)
    assert set(options.ignored) == ignored
    assert (options.val_batch_size, options.eval_suffix, options.lr_steps) == (64, "eval", [50, 100])


def test_unambiguous_abbreviations_work_as_in_any_argparse_script():
    options = parse("--data_d x --num_seg 24 --num_gl 8 --patch 112 --weight_d 0.5 --eval_s other")
    assert (options.data_dir, options.num_segments, options.num_glance_segments) == ("x", 24, 8)
    assert (options.patch_size, options.weight_decay, options.eval_suffix) == (112, 0.5, "other")
    assert parse("--datase toy").epochs == TOY_DEFAULTS["epochs"]


@pytest.mark.parametrize("spelling", ["--local_rank 1", "--local_rank=1", "--local-rank 1", "--local-rank=1"])
def test_both_spellings_of_the_launchers_option_are_accepted(spelling):
    assert not hasattr(parse(f"--data_dir x {spelling}"), "local_rank")


def test_small_patches_may_be_wanted():
    assert parse("--data_dir x --norm_ratio -0.5").norm_ratio == -0.5


def test_options_that_never_did_anything_are_accepted_and_named():
    assert parse("--data_dir x --num_steps 3 --sample_sigma 0.3").ignored == ["--num_steps", "--sample_sigma"]


def test_the_toy_dataset_has_small_settings_that_options_override():
    options = parse("--dataset toy --epochs 2")
    assert options.epochs == 2
    assert {name: getattr(options, name) for name in TOY_DEFAULTS if name != "epochs"} == {
        name: value for name, value in TOY_DEFAULTS.items() if name != "epochs"
    }
    assert options.data_dir == "data/toy"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--dataset actnet needs --data_dir"),
        ("--data_dir x --evaluate", "--evaluate needs --resume"),
        ("--data_dir x --num_segments 50", "--num_segments 50 must be a multiple of --num_glance_segments 16"),
        ("--data_dir x --num_focus_segments 49", "--num_focus_segments 49 must not exceed --num_segments 48"),
        ("--data_dir x --patch_size 95", "--patch_size 95 must be from 96 to 224 for frames of 224"),
        ("--data_dir x --patch_size 225", "--patch_size 225 must be from 96 to 224 for frames of 224"),
        ("--data_dir x --input_size 230", "--input_size 230 must be a multiple of 32"),
        ("--data_dir x --epochs 0", "argument --epochs: 0 is below 1"),
        ("--data_dir x --norm_ratio nan", "argument --norm_ratio: nan is not finite"),
        ("--data_dir x --lr nan", "argument --lr/--learning-rate: nan is not a finite number above 0"),
        ("--data_dir x --weight_decay inf", "argument --weight_decay/--wd: inf is not a finite number from 0"),
        (f"--data_dir x --seed {2**64}", f"argument --seed: {2**64} is above {2**63 - 1}"),
        ("--data_dir x --keep 1000000", "argument --keep: 1000000 is above 1000"),
        (f"--data_dir x --num_segments {10**30}", f"argument --num_segments: {10**30} is above 10000"),
        (f"--data_dir x --workers {10**9}", "argument -j/--workers: 1000000000 is above 1000"),
        (f"--data_dir x --eval_suffix {'x' * 300}", "cannot be a part of a file name"),
        ("--data_dir x --pretrained toy", "--pretrained toy is for --dataset toy"),
        ("--data_dir x --dropout 1", "argument --dropout/--do: 1 is not in 0 .. 1"),
        ("--data_dir x --patchsize 96", "unrecognized arguments: --patchsize 96"),
        ("--data_dir x --num 3", "ambiguous option: --num could match"),
        ("--data_dir x --eval_suffix a/b", "'a/b' cannot be a part of a file name"),
        ("--data_dir x --lr fast", "argument --lr/--learning-rate: invalid"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(text, message, capsys):
    with pytest.raises(SystemExit) as left:
        parse(text)
    assert left.value.code == 2
    assert message in the_error(capsys.readouterr().err)


@pytest.mark.parametrize("script", ["main.py", "main_semiAMP.py", "test_early_exit_uni_adafocus.py"])
def test_help_does_not_import_torch(script):
    done = run_script("-X", "importtime", script, "--help")
    assert "--patch_size" in done.stdout
    assert not any(line.endswith(" torch") for line in done.stderr.splitlines())


@pytest.mark.parametrize("script", ["main", "main_semiAMP", "test_early_exit_uni_adafocus", "predict"])
def test_help_and_wrong_options_do_not_wait_for_torch(script):
    program = (
        "import sys\n"
        f"import {script} as script\n"
        "for arguments, code in ((['--help'], 0), (['--no_such_option'], 2)):\n"
        "    try:\n"
        "        script.main(arguments)\n"
        "    except SystemExit as left:\n"
        "        assert left.code == code, left.code\n"
        "assert not {'torch', 'numpy', 'cv2'} & set(sys.modules)\n"
    )
    assert "usage:" in run_script("-c", program).stdout


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", []),
        ("--glance_ckpt_path w", []),
        ("--glance_ckpt_path w --resume auto", []),  # which may find no checkpoint and start with these weights
        ("--glance_ckpt_path w --resume auto --pretrained none", ["--glance_ckpt_path, with --pretrained none"]),
        ("--dataset toy --glance_ckpt_path w", ["--glance_ckpt_path, with --pretrained toy"]),
        ("--criterion entropy --focus_chunk 2 --dynamic_batch_size 3 --dynamic all", []),
        (
            "--criterion entropy --focus_chunk 2 --dynamic_batch_size 3 --eval_suffix mine",
            [f"--{name}, without --dynamic" for name in ("criterion", "focus_chunk", "dynamic_batch_size")],
        ),
    ],
)
def test_options_without_effect_are_known(text, named):
    parser = build_parser("test")
    if "eval" in text or "dynamic" in text:
        add_early_exit_options(parser)
    assert without_effect(parse_options(parser, ["--data_dir", "x", *shlex.split(text)])) == named


def test_help_names_only_defaults_that_there_are():
    printed = build_parser("").format_help()
    assert "(default: actnet)" in printed and "default: )" not in printed
    assert "None" not in printed and "False" not in printed


@pytest.mark.parametrize(
    "module", ["ops.video_jpg", "ops.report.curves", "ops.toy.dataset", "ops.toy.policies", "ops.toy.pretrain"]
)
def test_every_script_says_in_one_line_what_is_wrong_with_its_options(module, capsys):
    assert call(importlib.import_module(module).main, "--nope") == 2
    assert "--help" in the_error(capsys.readouterr().err)
