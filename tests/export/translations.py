"""Torch's table of ONNX operators, which torch makes anew from the sources of 500 functions for every export."""

from functools import cache

from torch.onnx._internal.exporter import _registration


def made_once() -> None:
    """Have torch keep the table that it makes for the first export: it is the same for all, and half of their time."""
    registry = _registration.ONNXRegistry
    if not hasattr(registry.from_torchlib, "cache_info"):
        kept = staticmethod(cache(registry.from_torchlib))
        setattr(registry, "from_torchlib", kept)  # noqa: B010 - a method, to a type checker, is no attribute
