"""TorchScript without running it: its code is read as text, checked against a list, and worked out step by step."""

from export.scripted.archive import Code, is_torchscript, read_code
from export.scripted.module import Scripted

__all__ = ["Code", "Scripted", "is_torchscript", "read_code"]
