"""Policies written out of the table of expressions: as a file that torch can script, imported and saved."""

import importlib.util
import io
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from tests.export.scripted.expressions import PARTS

_HEAD = '''"""Policies of a test."""

import math
from typing import NamedTuple, Optional

import torch
from torch import nn
from torch.nn import functional as F


class Pair(NamedTuple):
    one: torch.Tensor
    other: torch.Tensor


def squashed(t: torch.Tensor, low: float, high: float):
    return low + (high - low) * torch.sigmoid(t)
'''
_POLICY = """

class {name}(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.w = nn.Parameter(torch.randn(6, 6))
        self.register_buffer("b", torch.tensor([5, 0, 3, 1, 2, 4]))
        self.scale: float = 2.0
        self.mode: str = "twice"
{parts}
    def helper(self, t: torch.Tensor, by: float = 3.0):
        return t * by

    def maybe(self, t: torch.Tensor, other: Optional[torch.Tensor]):
        if other is None:
            return t * 2.0
        return t + other
{methods}
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
{body}
        return self.last(y)
"""
_METHOD = """
    def part_{at}(self, x: torch.Tensor, h: torch.Tensor):
{body}
        return y
"""


def single(name: str, expression: str) -> str:
    """Write a policy around one expression."""
    return _POLICY.format(name=name, parts=_parts(expression), methods="", body=_indented(expression))


def several(name: str, expressions: Mapping[str, str]) -> str:
    """Write a policy that adds up what several expressions give, each in a method of its own."""
    methods = "".join(_METHOD.format(at=at, body=_indented(text)) for at, text in enumerate(expressions.values()))
    body = "y = h * 0.0\n" + "\n".join(f"y = y + torch.tanh(self.part_{at}(x, h))" for at in range(len(expressions)))
    parts = _parts("\n".join(expressions.values()))
    return _POLICY.format(name=name, parts=parts, methods=methods, body=_indented(body))


def _parts(text: str) -> str:
    named = [name for name in PARTS if re.search(rf"self\.{name}\b", text)]
    return "".join(f"        self.{name} = {PARTS[name]}\n" for name in named)


def _indented(text: str) -> str:
    return "\n".join(f"        {line}" for line in text.split("\n"))


def imported(folder: Path, *policies: str) -> dict[str, type[nn.Module]]:
    """Write policies into a file of a folder and import it; torch reads a module's source to script it."""
    path = folder / f"policies_{folder.name}.py".replace("-", "_")
    path.write_text(_HEAD + "".join(policies))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return {name: kind for name, kind in vars(module).items() if isinstance(kind, type) and issubclass(kind, nn.Module)}


def saved(module: nn.Module, example: torch.Tensor | None = None) -> bytes:
    """Script a module, or trace it on an example, and give the file."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if example is None:
            torch.jit.save(torch.jit.script(module), stream)
        else:
            # Torch's own check would compare attention's short cut with what was traced without it.
            traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, stream)
    return stream.getvalue()
