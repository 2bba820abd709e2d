"""Objects that pickle as calls: what hostile files are made of."""

import functools
import importlib
import os
import pickle
import runpy
import subprocess
from collections.abc import Mapping

import numpy as np


class Gadget:
    """Pickles as a call of the function it was given; it can itself stand for the function of another one."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.made_of = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[object, ...]:
        return self.made_of

    def __call__(self) -> None:
        """Exist: pickle asks for something that can be called."""


def gadgets(canary: str) -> Mapping[str, Gadget]:
    """Give gadgets of many kinds by name, each of which would make a file ``canary`` if it were unpickled."""
    code = f"open({canary!r}, 'w').close()"
    return {
        "os.system": Gadget(os.system, f"touch '{canary}'"),
        "exec": Gadget(exec, code),
        "eval": Gadget(eval, code),
        "open": Gadget(open, canary, "w"),
        "Popen": Gadget(subprocess.Popen, ["touch", canary]),
        "runpy": Gadget(runpy.run_path, canary),
        "import": Gadget(importlib.import_module, "antigravity"),
        "getattr chain": Gadget(Gadget(getattr, Gadget(importlib.import_module, "os"), "mkdir"), canary),
        "partial": Gadget(Gadget(functools.partial, exec, code)),
        "map": Gadget(list, Gadget(map, exec, [code])),
        "state": Gadget(Gadget, "nothing", state={"__setstate__": Gadget(open, canary, "w")}),
        "numpy load": Gadget(np.load, canary, None, True),
        "pickle in pickle": Gadget(pickle.loads, pickle.dumps(Gadget(open, canary, "w"))),
    }
