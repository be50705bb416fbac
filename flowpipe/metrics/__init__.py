"""What a number in a result table means. numpy only, one file per task."""

from flowpipe.metrics.recognition import (
    UNKNOWN_FLOW_PX,
    accuracy_interval,
    confusion_matrix,
    endpoint_error,
    hit_at_k,
    mean_class_accuracy,
    top_k_accuracy,
)

__all__ = [
    "UNKNOWN_FLOW_PX",
    "accuracy_interval",
    "confusion_matrix",
    "endpoint_error",
    "hit_at_k",
    "mean_class_accuracy",
    "top_k_accuracy",
]
