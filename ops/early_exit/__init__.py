"""Sample-wise early exit: the place to import it from.

The arithmetic on logits is in `curve`, inference that stops in `inference`, thresholds on disk in `thresholds`.
"""

from ops.early_exit.curve import CRITERIA, criterion_values, exit_curve, exit_decisions, exit_thresholds
from ops.early_exit.inference import EarlyExitInference
from ops.early_exit.thresholds import read_thresholds
from ops.inference import prepare_for_inference

__all__ = ["CRITERIA", "EarlyExitInference", "criterion_values", "exit_curve", "exit_decisions", "exit_thresholds"]
__all__ += ["prepare_for_inference", "read_thresholds"]
