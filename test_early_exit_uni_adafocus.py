"""Evaluate sample-wise early exit: accuracy against cost, and with --dynamic the time that it really saves.

    torchrun --nproc_per_node=4 test_early_exit_uni_adafocus.py --dataset actnet --data_dir PATH_TO_DATASET \\
        --root_log LOG_DIR --resume ckpt/actnet_p128.pth.tar
    python test_early_exit_uni_adafocus.py --dataset toy --resume LOG_DIR/ckpt.best.pth.tar
    python test_early_exit_uni_adafocus.py --dataset toy --resume LOG_DIR/ckpt.best.pth.tar --dynamic 15

The log folder gets early_exit_{confidence,entropy}.csv and .json, early_exit.png and exit_logits.npz. A second call
with the same checkpoint and options computes only the curves. docs/EVALUATION.md has the published command.
"""

from collections.abc import Sequence

from ops.utils.errors import run_entry
from opts import add_early_exit_options, build_parser, parse_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options (by default the command line) and run; returns the exit code."""
    parser = build_parser("Uni-AdaFocus: evaluate sample-wise early exit.")
    add_early_exit_options(parser)
    options = parse_options(parser, arguments)
    if not options.resume and not options.summary:
        parser.error("early exit needs --resume, the checkpoint to evaluate")
    from ops.early_exit.run import run_early_exit  # torch takes seconds to import; --help and wrong options should not

    return run_early_exit(options)


if __name__ == "__main__":
    run_entry(main)
