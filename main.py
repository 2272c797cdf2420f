"""Train or evaluate Uni-AdaFocus in float32.

    python main.py --dataset toy
    torchrun --nproc_per_node=4 main.py --dataset actnet --data_dir PATH_TO_DATASET --root_log LOG_DIR
    python main.py --dataset actnet --data_dir PATH_TO_DATASET --evaluate --resume ckpt/actnet_p128.pth.tar

docs/TRAINING.md has the published commands word for word.
"""

from collections.abc import Sequence

from ops.utils.errors import run_entry
from opts import add_ablation_options, build_parser, parse_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options (by default the command line) and run; returns the exit code."""
    parser = build_parser("Uni-AdaFocus: train or evaluate in float32.", eval_freq=5)
    add_ablation_options(parser)
    options = parse_options(parser, arguments)
    from ops.runner import run  # torch takes seconds to import; --help and wrong options should not

    return run(options, mixed_precision=False)


if __name__ == "__main__":
    run_entry(main)
