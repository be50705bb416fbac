"""Who computes a flow method: the CPU, or a GPU in batches."""

from flowpipe.errors import InvalidArgument
from flowpipe.flow import BATCHED

DEVICES = ("cpu", "cuda", "auto")


def choose_device(flow: str, wanted: str) -> tuple[str, str]:
    """Decide who computes a method.

    Parameters
    ----------
    flow : str
        Name of the method.
    wanted : "cpu", "cuda" or "auto"

    Returns
    -------
    device : "cpu" or "cuda"
    reason : str
        For a person who wanted "auto".

    Raises
    ------
    InvalidArgument
        For another word, and where "cuda" cannot be: no GPU, or the method has no form for it.
    """
    if wanted not in DEVICES:
        raise InvalidArgument(
            f'device "{wanted}" must be one of {", ".join(DEVICES)}', parameter="device"
        )
    if wanted == "cpu":
        return "cpu", "device cpu, as asked for"
    hindrance = None
    if flow not in BATCHED:
        hindrance = f'flow "{flow}" has no form for a GPU, as {", ".join(BATCHED)} have'
    elif (name := gpu_name()) is None:
        hindrance = "PyTorch finds no CUDA GPU"
    if hindrance is None:
        return "cuda", f"device cuda: {name}"
    if wanted == "cuda":
        raise InvalidArgument(
            f"device cuda: {hindrance}; use device cpu, or auto to take a GPU where it can be",
            parameter="device",
        )
    return "cpu", f"device cpu: {hindrance}"


def gpu_name() -> str | None:
    """Return the name of the first CUDA GPU that PyTorch can use."""
    import torch  # takes seconds: only who asks for a GPU shall pay

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def gpu_bytes() -> int:
    """Return the memory of the first CUDA GPU."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)
