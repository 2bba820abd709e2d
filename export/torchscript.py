"""TorchScript modules, as robots ship them: those that keep their state in buffers get it as inputs and outputs.

TorchScript is loaded without ``--trust``, because nothing is left in it to be trusted by then. No Python is unpickled:
torch's own reader knows tensors, numbers and the archive's classes, and no others. The archive's code is a language of
its own, which could write files or never end, so before loading it is read as text and refused unless every call in it
is on a list of operators that only work out numbers (``export.scripted``). What is exported is that text, worked out
step by step; the module that torch loaded is what it is compared with.
"""

import io
import warnings
from dataclasses import replace

import torch

from export.archive import sha256_of
from export.declaration import Declaration, ModuleNetwork
from export.declared import state_dict
from export.errors import CheckpointRefused, DeclarationInvalid, OptionInvalid
from export.module import apart_of, of_forward, refuse_mixed, refuse_random
from export.observations import sampled
from export.scripted import is_torchscript, read_code
from export.scripted.original import Original, refuse_changed, refuse_divergent
from export.scripted.states import memory_of, states_of, unreset
from export.scripted.tree import copied
from export.spec import Source
from export.trained import TrainedPolicy

STEPS = 100


def torch_file(data: bytes, name: str, declaration: Declaration | None, cvar: float | None = None) -> TrainedPolicy:
    """Read a ``.pt`` or ``.pth``, whichever it is: TorchScript, or tensors that torch.save wrote."""
    return (torchscript if is_torchscript(data) else state_dict)(data, name, declaration, cvar)


def torchscript(data: bytes, name: str, declaration: Declaration | None, cvar: float | None = None) -> TrainedPolicy:
    """Read a TorchScript module; the declaration says its spaces and what its numbers mean (kind = "module").

    A module that keeps a state in its buffers gets it as memory, and has to answer as the original does over 100 steps.
    Raises CheckpointRefused, DeclarationInvalid or OptionInvalid.
    """
    declaration = _declared(declaration, name, cvar)
    code = read_code(data, name)
    script = _loaded(data, name)
    scripted, owners = copied(code, script, name)
    rows = _rows(declaration)
    # The text first, which is bounded, and only then the module that torch loaded.
    states = states_of(scripted, rows, name)
    memory = memory_of(scripted, states, owners, rows)
    source = Source(library="torchscript", algorithm=declaration.algorithm, checkpoint_sha256=sha256_of(data))
    policy = of_forward(scripted, declaration, source, memory)
    refuse_random(policy)
    original = Original(script, [owners[place] for place in states], scripted)
    if memory:
        refuse_divergent(scripted, original, rows)
        kept = ", ".join(owners[place].path for place in states)
        inside = (*policy.inside, f"the module's own state in and out: {kept}")
        policy = replace(policy, inside=inside, remarks=(*policy.remarks, *unreset(scripted, owners)))
    else:
        refuse_changed(script, rows[0])
        refuse_mixed(of_forward(original, declaration, source))
    native = of_forward(original, declaration, source, memory)
    return replace(policy, native=native.answer, native_name=f"TorchScript in torch {torch.__version__}")


def _declared(declaration: Declaration | None, name: str, cvar: float | None) -> Declaration:
    if declaration is None:
        msg = f"{name} is TorchScript, which does not say what its numbers mean: give --declare FILE.toml"
        raise DeclarationInvalid(msg)
    if not isinstance(declaration.network, ModuleNetwork):
        msg = f"{name} is TorchScript, a whole module: network.kind is {declaration.network.kind!r}, expected 'module'"
        raise DeclarationInvalid(msg)
    if cvar is not None:
        msg = f"--cvar is {cvar:g}, expected it with a network that knows a distribution of returns (c51, quantile)"
        raise OptionInvalid(msg)
    return declaration


def _loaded(data: bytes, name: str) -> torch.jit.ScriptModule:
    """Load a module whose code has been checked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(data), map_location="cpu"
            )
    except Exception as error:
        msg = f"{name} cannot be read as TorchScript ({type(error).__name__})"
        raise CheckpointRefused(msg) from error
    return script.eval()


def _rows(declaration: Declaration) -> list[list[torch.Tensor]]:
    """Draw observations, prepared as the module gets them, each a batch of one."""
    drawn = sampled(declaration.observation_space, STEPS)
    prepare, _ = apart_of(declaration)
    parts = prepare(*(torch.from_numpy(drawn[port.name]) for port in declaration.observation_space.inputs))
    return [[part[at : at + 1] for part in parts] for at in range(STEPS)]
