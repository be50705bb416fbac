"""What a number in a result table means. numpy only, one file per task."""

from flowpipe.metrics.recognition import (
    accuracy_interval,
    confusion_matrix,
    hit_at_k,
    mean_class_accuracy,
    top_k_accuracy,
)

__all__ = [
    "accuracy_interval",
    "confusion_matrix",
    "hit_at_k",
    "mean_class_accuracy",
    "top_k_accuracy",
]
