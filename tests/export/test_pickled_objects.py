"""Pickled files: what they were made from is said, whoever wrote them and in whatever form, and nothing is made."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.declaration import parsed
from export.errors import CheckpointRefused, DeclarationInvalid
from export.pickled_objects import Pickled, objects_in
from export.sources import Asked, read
from tests.export.gadgets import Gadget


class Actor(nn.Module):
    """A network of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


class Agent:
    """An agent that is no module, with one in it."""

    def __init__(self) -> None:
        self.actor, self.gamma = Actor(), 0.99


TABLE = {"observation": {"shape": [3]}, "action": {"n": 2}, "network": {"hidden": [4], "activation": "tanh"}}
FORMS = ["zip", "old", "pickle"]


def saved(value: object, form: str) -> bytes:
    """What torch writes, today and before it wrote zips, or a plain pickle."""
    if form == "pickle":
        return pickle.dumps(value)
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=form == "zip")
    return stream.getvalue()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".cleanrl_model"])
def test_a_pickled_module_is_called_what_it_is(suffix: str, form: str, tmp_path: Path) -> None:
    """With a declaration or without: its class, and the ways out; never that it holds tensors alone."""
    path = tmp_path / f"actor{suffix}"
    path.write_bytes(saved(Actor(), form))

    for declaration in (None, parsed(TABLE, "net.toml")):
        with pytest.raises(CheckpointRefused) as caught:
            read(Asked(path, declaration))
        said = str(caught.value)
        assert "a whole module that was pickled, of the class tests.export.test_pickled_objects.Actor" in said
        for way in ("module.state_dict()", "torch.jit.script(module)", "--trust (with --declare)"):
            assert way in said
        assert "tensors alone" not in said


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"policy": Actor(), "epoch": 3}, ("policy", "test_pickled_objects.Actor", True)),
        (nn.Sequential(nn.Linear(3, 2)), ("", "torch.nn.modules.container.Sequential", True)),
        (Agent(), ("", "test_pickled_objects.Agent", False)),
        ([Actor().state_dict(), {"obs_rms": Agent()}], ("1.obs_rms", "test_pickled_objects.Agent", False)),
        ({"w": torch.ones(2), "mean": np.ones(3)}, ("mean", "_core.multiarray._reconstruct", False)),
    ],
    ids=["module in a dict", "torch's own", "agent", "object in a list", "array"],
)
def test_objects_are_named_where_they_lie(value: object, found: tuple[str, str, bool], form: str) -> None:
    """Modules, agents, statistics and NumPy's arrays; tensors and dicts are none."""
    place, kind, module = found

    (one,) = objects_in(saved(value, form))

    assert (one.place, one.module) == (place, module)
    assert one.kind.endswith(kind)


def test_the_message_of_other_objects_names_them(tmp_path: Path) -> None:
    """A checkpoint with an array of NumPy's in it can be saved otherwise, or trusted."""
    path = tmp_path / "all.pt"
    path.write_bytes(saved({"net": Actor().state_dict(), "obs_mean": np.ones(3)}, "zip"))

    with pytest.raises(CheckpointRefused, match=r"In it obs_mean is an object of numpy.*: save state dicts, tens"):
        read(Asked(path, parsed(TABLE, "net.toml")))


@pytest.mark.parametrize("suffix", [".pt", pytest.param(".pkl", marks=pytest.mark.soak)])
def test_a_trusted_module_without_a_declaration_is_no_tensors_alone(suffix: str, tmp_path: Path) -> None:
    """It is asked for a declaration as what it is, and read with one."""
    path = tmp_path / f"actor{suffix}"
    path.write_bytes(saved(Actor(), "zip" if suffix == ".pt" else "pickle"))

    with pytest.raises(DeclarationInvalid, match=r"a pickled module of the class .*Actor, and its tensors do not say"):
        read(Asked(path, trust=True))
    assert read(Asked(path, parsed(TABLE, "net.toml"), trust=True)).family == "dqn"


def test_state_dicts_hold_no_objects() -> None:
    """In any form."""
    state = OrderedDict(Actor().state_dict())

    assert [objects_in(saved(state, form)) for form in ("zip", "old")] == [(), ()]


@pytest.mark.parametrize("form", FORMS)
def test_what_a_hostile_file_calls_is_a_name(form: str, tmp_path: Path) -> None:
    """Nothing is called, and control characters do not reach the terminal."""
    canary = tmp_path / "canary"
    named = {"a\x1b[2Jb": Gadget(exec, f"open({str(canary)!r}, 'w')", {})}

    (one,) = objects_in(saved(named, form))

    # Pickles of old protocols name the module as Python 2 did.
    assert one == Pickled("a?[2Jb", f"{'builtins' if form == 'pickle' else '__builtin__'}.exec", module=False)
    assert not canary.exists()


def test_damaged_files_have_no_objects() -> None:
    """A zip without its pickle, a cut one, noise, and a list that holds itself."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/version", "3")
    endless: list[object] = []
    endless.append(endless)
    whole = saved(Actor(), "old")

    for data in (stream.getvalue(), stream.getvalue()[:40], b"", b"noise", whole[: len(whole) // 9]):
        assert objects_in(data) == ()
    assert objects_in(pickle.dumps(endless)) == ()
