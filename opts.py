"""Every command-line option, in groups, each with its meaning. Nothing here imports torch, so `--help` is quick.

The published options keep their names. Where the published parser wants a value for a dataset, ours has one: the
published recipe for ActivityNet, and small settings for `--dataset toy`, so that it needs no other option.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence

from ops.utils.cores import default_workers
from ops.utils.errors import EXIT_WRONG_INPUT, is_first_process

# What `--dataset toy` uses unless an option says otherwise: minutes on two CPU cores.
TOY_DEFAULTS = {
    "pretrained": "toy",
    "num_segments": 20,
    "num_glance_segments": 5,
    "num_focus_segments": 4,
    "input_size": 128,
    "patch_size": 64,
    "fc_dropout": 0.0,
    "epochs": 3,
    "batch_size": 16,
    "lr": 0.0003,
    "global_lr_ratio": 0.0,
    "stn_lr_ratio": 5.0,
    "temporal_lr_ratio": 60.0,
    "classifier_lr_ratio": 30.0,
    "norm_ratio": -0.7,
    "freeze_bn": True,
    "workers": 1,
}

# Accepted because published commands and scripts pass them; nothing reads them.
IGNORED = (
    "--hidden_dim", "--num_steps", "--sample_sigma", "--save", "--multi_sample_times", "--scale_factor", "--normal_sig",
    "--fold_id", "--k", "--action_dim", "--glance_size", "--train_stage",
    "--loss_type", "--gpu", "--gpus", "--modality", "--arch", "--store_name", "--root_model", "--snapshot_pref",
    "--clip-gradient", "--dist_url", "--dist_backend", "--world_size", "--rank", "--train_list", "--val_list",
    "--root_path", "--npb", "--sample", "--random_patch", "--multiprocessing_distributed", "--with_glancer",
    "--consensus_type",
)  # fmt: skip


def whole(low: int, high: int = 10**9) -> Callable[[str], int]:
    """The type of an option that is a whole number from `low` to `high`."""

    def whole_number(text: str) -> int:
        number = int(text)
        if number < low:
            raise argparse.ArgumentTypeError(f"{number} is below {low}")
        if number > high:
            raise argparse.ArgumentTypeError(f"{number} is above {high}")
        return number

    return whole_number


def _number(holds: Callable[[float], bool], wrong: str) -> Callable[[str], float]:
    """The type of an option that is a number of which something holds; what is wrong where it does not."""

    def number(text: str) -> float:
        value = float(text)
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{text} {wrong}")
        return value

    return number


positive = _number(lambda value: 0 < value < math.inf, "is not a finite number above 0")
_minutes = _number(lambda value: 0 < value <= 7 * 24 * 60, "is not above 0 and at most a week")
_finite = _number(math.isfinite, "is not finite")
_not_negative = _number(lambda value: 0 <= value < math.inf, "is not a finite number from 0")
_share = _number(lambda value: 0 <= value < 1, "is not in 0 .. 1 (1 left out)")


class OneLineParser(argparse.ArgumentParser):
    """Wrong options are one line and exit code 2, from one process only."""

    def error(self, message: str) -> None:
        """Print the message and exit; of several processes only the first prints."""
        if is_first_process():
            print(f"error: {message} (see {self.prog} --help)", file=sys.stderr, flush=True)
        sys.exit(EXIT_WRONG_INPUT)


class DefaultsWhereThereAreAny(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to an option's help, unless that is to go without the option."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default not in (None, "", False):
            return super()._get_help_string(action)
        return action.help and action.help.removesuffix(" (default: %(default)s)")  # Python 3.10 adds it for --no-...


def build_parser(description: str, eval_freq: int = 5) -> argparse.ArgumentParser:
    """The parser that the training, evaluation and early-exit scripts share; eval_freq is that script's default."""
    parser = OneLineParser(description=description, formatter_class=DefaultsWhereThereAreAny)

    data = parser.add_argument_group("data")
    data.add_argument("--dataset", default="actnet", help="actnet, fcvid, minik, toy, or a name of your own")
    data.add_argument("--data_dir", help="folder of the class file, the split files and frames/ (toy: data/toy)")
    data.add_argument("--metric", choices=("map", "accuracy"), help="main metric, where not the dataset's own")
    data.add_argument("--frame_template", help="file name of a frame such as image_{:05d}.jpg, where not the dataset's")
    data.add_argument(
        "--check_data",
        nargs="?",
        const="quick",
        choices=("quick", "full"),
        help="only check that each listed video has its first and last frame (full: decode all its frames), and leave",
    )
    data.add_argument("--skip_missing", action="store_true", help="leave videos without frames out and go on")
    add_decode_option(data)
    workers = "data-loading workers per process; 0: load in that process (default, by cores and processes: %(default)s)"
    data.add_argument("-j", "--workers", type=whole(0, 1000), default=default_workers(), help=workers)

    model = parser.add_argument_group("model")
    _add_choice(model, "--glance_arch", ("mbv2", "res50"), "glance network")
    model.add_argument("--glance_ckpt_path", default="", help="ImageNet weights of the glance network, a file")
    _add_choice(
        model, "--pretrained", ("imagenet", "none", "toy"), "where training starts from; toy: see ops/toy/pretrain.py"
    )
    model.add_argument("--num_segments", type=whole(1, 10_000), default=48, help="frames per video, T")
    model.add_argument(
        "--num_glance_segments", type=whole(1), default=16, help="number of glance frames, G; must divide T"
    )
    model.add_argument("--num_focus_segments", type=whole(1), default=16, help="number of focus frames, F")
    add_size_options(model, 224, 128)
    model.add_argument("--stn_hidden_dim", type=whole(1), default=128, help="width of the spatial policy")
    model.add_argument("--temporal_hidden_dim", type=whole(1), default=64, help="width of the temporal policy")
    model.add_argument("--temperature", type=positive, default=1.0, help="focus frames are sampled more evenly above 1")
    model.add_argument("--dropout", "--do", type=_share, default=0.2, help="before the heads of the steps")
    model.add_argument("--fc_dropout", type=_share, default=0.2, help="before the heads of single frames and patches")

    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=whole(1), default=50, help="passes over the training split")
    training.add_argument("-b", "--batch_size", "--batch-size", type=whole(1), default=32, help="videos, all processes")
    training.add_argument("--val_batch_size", type=whole(1), help="videos in evaluation (default: as --batch_size)")
    training.add_argument(
        "--grad_accum",
        type=whole(1),
        default=1,
        help="split each batch into N pieces, one after the other: less memory; batch norms see one piece at a time",
    )
    training.add_argument(
        "--checkpoint_activations",
        action="store_true",
        help="recompute activations in the backward pass: less memory, 1.3 times the time (1.7 on an H100)",
    )
    training.add_argument(
        "--freeze_bn",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="freeze the running statistics of the backbones' batch norms, and normalise by them in training too",
    )
    training.add_argument("--lr", "--learning-rate", type=positive, default=0.002, help="learning rate")
    _add_choice(training, "--lr_type", ("cos", "step"), "schedule, per epoch")
    training.add_argument("--lr_steps", type=float, nargs="+", default=[50, 100], help="epochs of lr x 0.1, with step")
    training.add_argument("--momentum", type=_share, default=0.9, help="of SGD")
    training.add_argument("--weight_decay", "--wd", type=_not_negative, default=2e-4, help="of SGD")
    for name, default, part in (
        ("temporal", 0.2, "temporal policy"),
        ("stn", 0.2, "spatial policy"),
        ("global", 0.5, "glance network and its heads"),
        ("classifier", 20.0, "step-by-step classifier"),
    ):
        training.add_argument(
            f"--{name}_lr_ratio", type=_not_negative, default=default, help=f"{part}: its multiple of lr"
        )
    training.add_argument(
        "--KL_ratio",
        type=_not_negative,
        default=0.0,
        help="weight of the KL term that pulls frame weights towards uniform",
    )
    training.add_argument(
        "--norm_ratio",
        type=_finite,
        default=1.0,
        help="weight of the patch-size penalty; positive favours large patches, negative small ones",
    )
    training.add_argument(
        "--seed", type=whole(0, 2**63 - 1), default=0, help="of everything drawn at random, workers included"
    )
    training.add_argument("--start_epoch", "--start-epoch", type=whole(0), help="where not the checkpoint's")

    run = parser.add_argument_group("run")
    run.add_argument("--root_log", default="log", help="logs and checkpoints go to a folder of their own in here")
    run.add_argument("--resume", default="", help="checkpoint to go on from or to evaluate; auto: this run's newest")
    run.add_argument("--init_from", default="", help="checkpoint to fine-tune: its weights where they fit, no more")
    run.add_argument("-e", "--evaluate", action="store_true", help="evaluate --resume and leave")
    run.add_argument("--summary", action="store_true", help="print parameters and GFLOPs per part; needs no data")
    run.add_argument("--save_predictions", help="write video, logits, labels of the last evaluation to this .npz file")
    run.add_argument(
        "--eval_suffix", type=_file_name_part, default="eval", metavar="NAME", help="evaluations log to log_NAME.csv"
    )
    run.add_argument("-p", "--print-freq", "--print_freq", type=whole(1), default=20, help="steps between lines")
    run.add_argument(
        "-ef",
        "--eval-freq",
        "--eval_freq",
        type=whole(1),
        default=eval_freq,
        help="epochs between evaluations; the last 9 always",
    )
    run.add_argument("--save_freq", type=whole(1), help="save every so many steps too, not only after each epoch")
    run.add_argument(
        "--keep", type=whole(0, 1000), default=1, help="older checkpoints kept as ckpt.1.pth.tar, ckpt.2..."
    )
    run.add_argument("--time_limit", type=_minutes, default=30, help="minutes to wait for another process")
    run.add_argument("--local_rank", "--local-rank", type=int, help="set by torch.distributed.launch")

    speed = parser.add_argument_group("speed")
    add_precision_option(speed)
    speed.add_argument(
        "--compile", action="store_true", help="run the backbones by torch.compile, which takes minutes at the start"
    )

    ignored = parser.add_argument_group("accepted, but without effect", "options of published scripts")
    for option in IGNORED:
        ignored.add_argument(option, nargs="*", default=argparse.SUPPRESS, help="no effect")
    return parser


def _add_choice(group: argparse._ArgumentGroup, name: str, choices: Sequence[str], help: str) -> None:
    """Add an option that takes one of some words, by default the first."""
    group.add_argument(name, choices=choices, default=choices[0], help=help)


def add_size_options(group: argparse._ActionsContainer, input_size: int, patch_size: int) -> None:
    """Add the sides of frames and patches, with these defaults; see `check_sizes`."""
    group.add_argument("--input_size", type=whole(32), default=input_size, help="side of a frame, a multiple of 32")
    group.add_argument(
        "--patch_size", type=whole(1), default=patch_size, help="side of a patch, 96..224 for frames of 224"
    )


def check_sizes(parser: argparse.ArgumentParser, input_size: int, patch_size: int) -> None:
    """End the program with one line where frames and patches cannot have these sides."""
    if input_size % 32:
        parser.error(f"--input_size {input_size} must be a multiple of 32")
    smallest = input_size * 96 / 224
    if not smallest <= patch_size <= input_size:
        parser.error(
            f"--patch_size {patch_size} must be from {smallest:.0f} to {input_size} for frames of {input_size}"
        )


def add_decode_option(group: argparse._ArgumentGroup) -> None:
    """Add `--decode`; see `ops.data.transforms`."""
    _add_choice(
        group, "--decode", ("fast", "pillow"), "pillow: the published pixels bit for bit; fast: within one grey level"
    )


def add_precision_option(group: argparse._ArgumentGroup) -> None:
    """Add `--eval_precision`; see `ops.inference.prepare_for_inference`."""
    _add_choice(
        group,
        "--eval_precision",
        ("float32", "bfloat16", "float16"),
        "what the backbones compute with in evaluation; below float32 the log says how far predictions move",
    )


def add_ablation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that the training scripts have beside those of `build_parser`: other policies in evaluation."""
    group = parser.add_argument_group("ablations", "with --evaluate: what the policies are worth, at the same cost")
    _add_choice(
        group,
        "--patch_policy",
        ("learned", "random", "center"),
        "where to look: as learned, or patches of the base size at random places (from --seed) or in the centre",
    )
    _add_choice(
        group,
        "--frame_policy",
        ("learned", "uniform", "random"),
        "which frames to look at: as learned, evenly spread, or at random (from --seed)",
    )
    group.add_argument(
        "--set_ablation", nargs="?", const="all", choices=("all", "single"),
        help="compare all of them in one call, or, with single, only those that change at most one policy",
    )  # fmt: skip


def add_half_precision_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only main_semiAMP.py has: what is in half precision in training."""
    group = parser.add_argument_group("half precision", "in training; weights stay in float32")
    _add_choice(
        group,
        "--amp_dtype",
        ("auto", "float16", "bfloat16"),
        "float16 comes with gradient scaling, bfloat16 needs none; auto: float16 on GPUs, bfloat16 on CPUs with it",
    )
    _add_choice(
        group,
        "--amp_scope",
        ("backbones", "all"),
        "the two backbones, as published, or all layers; losses are always in float32",
    )


def add_early_exit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that the early-exit script has beside those of `build_parser`."""
    group = parser.add_argument_group("early exit")
    _add_choice(
        group,
        "--calibrate_on",
        ("train", "val_half"),
        "thresholds from the training split, as published, or from half of the validation split, the rest evaluated",
    )
    group.add_argument(
        "--dynamic",
        type=_operating_points,
        default="none",
        metavar="P",
        help="also run the validation split for real at operating point P, 1..19 (larger: later exits), or `all`",
    )
    _add_choice(
        group, "--criterion", ("confidence", "entropy"), "what --dynamic decides by; the curves are always of both"
    )
    group.add_argument("--focus_chunk", type=whole(1), default=1, help="patches between checks, with --dynamic")
    group.add_argument("--dynamic_batch_size", type=whole(1), default=1, help="videos at a time, with --dynamic")


def parse_options(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; options that do not go together end the program with one line and exit code 2.

    The result holds what something reads; `ignored` lists the options given that have no effect.
    """
    first_look = OneLineParser(add_help=False)
    first_look.add_argument("--dataset")
    if first_look.parse_known_args(arguments)[0].dataset == "toy":
        parser.set_defaults(**TOY_DEFAULTS)
    options = parser.parse_args(arguments)
    names = {option.lstrip("-").replace("-", "_"): option for option in IGNORED}
    options.ignored = [option for name, option in names.items() if vars(options).pop(name, None) is not None]
    vars(options).pop("local_rank")  # the launcher's environment says the same
    if options.data_dir is None and (options.dataset == "toy" or not options.summary):
        if options.dataset != "toy":
            parser.error(f"--dataset {options.dataset} needs --data_dir, the folder of its split files and frames/")
        options.data_dir = "data/toy"
    if options.evaluate and not options.resume:
        parser.error("--evaluate needs --resume, the checkpoint to evaluate")
    if options.resume and options.init_from:
        parser.error("--resume goes on with a run and --init_from starts one: give one of them")
    if options.pretrained == "toy" and options.dataset != "toy":
        parser.error(f"--pretrained toy is for --dataset toy, not for {options.dataset}: leave it out")
    if options.num_segments % options.num_glance_segments:
        parser.error(
            f"--num_segments {options.num_segments} must be a multiple of "
            f"--num_glance_segments {options.num_glance_segments}"
        )
    if options.num_focus_segments > options.num_segments:
        parser.error(
            f"--num_focus_segments {options.num_focus_segments} must not exceed --num_segments {options.num_segments}"
        )
    check_sizes(parser, options.input_size, options.patch_size)
    if options.evaluate and hasattr(options, "amp_dtype"):
        for name in _given(options, amp_dtype="auto", amp_scope="backbones"):
            parser.error(f"--{name} applies to training only: leave it out with --evaluate")
    if hasattr(options, "set_ablation"):
        given = _given(options, set_ablation=None, patch_policy="learned", frame_policy="learned")
        if given and not options.evaluate:
            parser.error(f"--{given[0]} needs --evaluate; training is always with the learned policies")
        others = [*given[1:], *_given(options, save_predictions=None)]
        if options.set_ablation and others:
            parser.error(
                f"--set_ablation compares all policies and --{others[0]} belongs to a single evaluation: give only one"
            )
    return options


def without_effect(options: argparse.Namespace) -> list[str]:
    """The options that were given and change nothing beside the others, each with the reason, for people.

    Not those of published commands, which pass options of training with --evaluate.
    """
    found = []
    if hasattr(options, "dynamic"):
        if not options.dynamic:
            given = _given(options, criterion="confidence", focus_chunk=1, dynamic_batch_size=1)
            found += [f"--{name}, without --dynamic" for name in given]
    elif not options.evaluate:
        # --resume auto may find no checkpoint: the same command starts a run, with these weights, and goes on with it.
        elsewhere = "--resume" if options.resume not in ("", "auto") else "--init_from" if options.init_from else ""
        if not elsewhere and options.pretrained != "imagenet":
            elsewhere = f"--pretrained {options.pretrained}"
        if options.glance_ckpt_path and elsewhere:
            found.append(f"--glance_ckpt_path, with {elsewhere}")
        if options.eval_suffix != "eval":
            found.append("--eval_suffix, which names the log of --evaluate and of early exit")
    return found


def _given(options: argparse.Namespace, **usual: object) -> list[str]:
    """The options that are other than usual."""
    return [name for name, value in usual.items() if getattr(options, name) != value]


def _operating_points(text: str) -> tuple[int, ...]:
    points = tuple(range(1, 20))
    if text in ("all", "none"):
        return points if text == "all" else ()
    if not text.isdecimal() or int(text) not in points:
        raise argparse.ArgumentTypeError(f"{text} is no operating point: choose one of 1 to 19, all or none")
    return (int(text),)


def _file_name_part(text: str) -> str:
    if not text or text in (".", "..") or not set(text).isdisjoint("/\\\0") or len(text) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a part of a file name")
    return text
