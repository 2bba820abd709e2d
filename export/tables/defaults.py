"""What a defaultdict gives for a state that it does not have, where its file says so in plain words."""

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointRefused
from export.inert import Inert
from export.inert_arrays import number_of

_ZERO = frozenset(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in ("float", "int", "long"))
_LIST = frozenset({"builtins.list", "__builtin__.list", "numpy.array", "numpy.asarray"})


def default_of(value: object) -> NDArray[np.float64] | None:
    """Give the value of every action, or each of them, in a state that a defaultdict does not have.

    Known are ``float`` and ``int``, and ``functools.partial`` of ``numpy.zeros``, ``ones`` or ``full``, ``float``,
    ``int`` or a list. None where it is no defaultdict, or its default is a function of the file's own: that is not run.
    """
    if not isinstance(value, Inert) or str(value.of) != "collections.defaultdict":
        return None
    factory = value.args[0] if isinstance(value.args, tuple) and value.args else None
    if not isinstance(factory, Inert):
        return np.zeros(1) if str(factory) in _ZERO else None
    if str(factory.of) != "functools.partial":
        return None
    match factory.state:
        case (function, tuple() as args, kwargs, *_):
            return _called(str(function), args, kwargs)
    return None


def _called(function: str, args: tuple[object, ...], kwargs: object) -> NDArray[np.float64] | None:
    named = kwargs if isinstance(kwargs, dict) else {}
    if function in ("numpy.zeros", "numpy.ones"):
        return np.full(1, 0.0 if function == "numpy.zeros" else 1.0)
    given = named.get("fill_value", args[1] if len(args) > 1 else None) if function == "numpy.full" else None
    if function in _ZERO:
        given = args[0] if args else 0.0
    if function in _LIST and args and isinstance(args[0], (list, tuple)):
        given = args[0]
    try:
        if isinstance(given, (list, tuple)):
            return np.array([number_of(one, "a default") for one in given])
        return None if given is None else np.array([number_of(given, "a default")])
    except CheckpointRefused:
        return None
