"""Train or evaluate Uni-AdaFocus with the two backbones in half precision during training (paper section 5.1).

    torchrun --nproc_per_node=4 main_semiAMP.py --dataset fcvid --data_dir PATH_TO_DATASET --root_log LOG_DIR

The same loop as main.py: float16 with gradient scaling on GPUs, bfloat16 on CPUs that have it, otherwise float32, which
`--amp_dtype` changes; `--amp_scope all` is half precision in all layers. Neither touches evaluation.
"""

from collections.abc import Sequence

from ops.utils.errors import run_entry
from opts import add_ablation_options, add_half_precision_options, build_parser, parse_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options (by default the command line) and run; returns the exit code."""
    parser = build_parser("Uni-AdaFocus: train in mixed precision.", eval_freq=1)
    add_ablation_options(parser)
    add_half_precision_options(parser)
    options = parse_options(parser, arguments)
    from ops.runner import run  # torch takes seconds to import; --help and wrong options should not

    return run(options, mixed_precision=True)


if __name__ == "__main__":
    run_entry(main)
