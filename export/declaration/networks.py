"""The networks of a declaration: one record for each kind, checked before any tensor is looked at."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, model_validator
from pydantic import Field as Constrained

from export.declaration.spaces import Numbers, Where
from export.spec.spaces import Frozen

Width = Annotated[int, Constrained(ge=1, le=65536)]
Widths = Annotated[tuple[Width, ...], Constrained(max_length=64)]
Names = Annotated[tuple[str, ...], Constrained(max_length=256)]
Span = tuple[float, float]


class Convolution(Frozen):
    """One convolution of an image, followed by the activation."""

    channels: Annotated[int, Constrained(ge=1, le=4096)]
    kernel: Annotated[int, Constrained(ge=1, le=64)]
    stride: Annotated[int, Constrained(ge=1, le=64)] = 1
    padding: Annotated[int, Constrained(ge=0, le=32)] = 0


# Mnih et al. (2015), "Human-level control through deep reinforcement learning", methods.
_NATURE = (
    {"channels": 32, "kernel": 8, "stride": 4},
    {"channels": 64, "kernel": 4, "stride": 2},
    {"channels": 64, "kernel": 3, "stride": 1},
)


def _nature(value: object) -> object:
    if isinstance(value, str):
        if value != "nature":
            msg = "expected 'nature' or a list of convolutions, each with channels, kernel, stride and padding"
            raise ValueError(msg)
        return _NATURE
    return value


Convolutions = Annotated[tuple[Convolution, ...], Constrained(max_length=16), BeforeValidator(_nature)]


def _norm(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


class Norm(Frozen):
    """A normalisation with the statistics of evaluation, behind layers or on what goes into the first one.

    ``batch`` is torch's BatchNorm1d or 2d by its running statistics, ``layer`` its LayerNorm. ``where`` says whether it
    stands before or after the activation; where nothing is said, the numbers in the names of the layers have to say it
    (``net.0``, ``net.1``, ``net.3``). ``at`` are the layers that have one, counted from 0 with the convolutions first;
    all, where nothing is said. ``names`` are those of the normalisations in order, where the file's order is unsure.
    ``affine`` is false for a LayerNorm without weight and bias, of which a file has no trace.
    """

    kind: Literal["batch", "layer"]
    where: Literal["before", "after"] | None = None
    at: Annotated[tuple[Annotated[int, Constrained(ge=0)], ...] | None, Constrained(max_length=64)] = None
    names: Names = ()
    epsilon: Annotated[float, Constrained(gt=0)] = 1e-5
    affine: bool = True

    @model_validator(mode="after")
    def _in_order(self) -> "Norm":
        if self.at is not None and list(self.at) != sorted(set(self.at)):
            msg = f"at is {list(self.at)}, expected layers in order, each once"
            raise ValueError(msg)
        if not self.affine and self.kind == "batch":
            msg = "affine is false, expected it with 'layer' alone: of 'batch' the file says it"
            raise ValueError(msg)
        return self


def _input_norm(norm: Norm | None) -> Norm | None:
    if norm is not None and (norm.where is not None or norm.at is not None):
        msg = "expected no where and no at: it stands before the first layer"
        raise ValueError(msg)
    return norm


BehindLayers = Annotated[Norm | None, BeforeValidator(_norm)]
OnInput = Annotated[Norm | None, BeforeValidator(_norm), AfterValidator(_input_norm)]


class Encoder(Frozen):
    """A network of its own for one part of the observation: what it gives is joined with the other parts.

    ``entry`` is the part's key where the observation has entries; where it has not, ``first`` and ``count`` cut the
    part out of the row, as with a history of old observations in front of the present one.
    """

    entry: str = ""
    first: Annotated[int, Constrained(ge=0)] = 0
    count: Width | None = None
    convolutions: Convolutions = ()
    hidden: Widths = ()
    activation: str = "ReLU"
    norm: BehindLayers = None
    input_norm: OnInput = None
    last_activation: bool = True
    layers: Names


def _std(value: object) -> object:
    return {"fixed": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


class Std(Frozen):
    """Where a Gaussian's standard deviation comes from: a fixed number, a tensor, or a second head of the network.

    A second head is a ``layer`` of a declared network and an ``output`` of a module (1 is its second one); with
    ``half`` it is the second half of the same numbers, ``[mean, std]``. ``of`` says whether that is the standard
    deviation or its logarithm. ``squash`` brings it into ``span``: ``tanh`` as
    low + (tanh(x) + 1) / 2 * (high - low), ``clip`` by cutting it off.
    """

    fixed: Annotated[float, Constrained(gt=0)] | None = None
    parameter: str = ""
    layer: str = ""
    output: Annotated[int, Constrained(ge=1, le=16)] | None = None
    half: bool = False
    of: Literal["log_std", "std"] = "log_std"
    squash: Literal["none", "tanh", "clip"] = "none"
    span: Span | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> "Std":
        given = (self.fixed is not None, bool(self.parameter), bool(self.layer), self.output is not None, self.half)
        if given.count(True) != 1:
            msg = (
                "expected a number, or one of parameter (a tensor's name), layer (a second head's), output (a place) "
                "and half = true"
            )
            raise ValueError(msg)
        if (self.squash != "none") != (self.span is not None):
            msg = "expected squash and span together: span = [lowest, highest]"
            raise ValueError(msg)
        if self.span is not None and self.span[0] >= self.span[1]:
            msg = "expected a span of a lowest and a higher highest number"
            raise ValueError(msg)
        return self


class Unscale(Frozen):
    """How the network's numbers become executed ones: ``offset + scale * clip(x, -clip, clip)``."""

    scale: Numbers = (1.0,)
    offset: Numbers = (0.0,)
    clip: Annotated[float, Constrained(gt=0)] | None = None


# Heads whose numbers are a mean and then, as many, what this says.
_HALVES = {"mean_log_std": "log_std", "mean_std": "std"}


class Heads(Frozen):
    """What a network's last numbers mean.

    ``deterministic`` is a Gaussian without spread (TD3, DDPG). ``mean_log_std`` and ``mean_std`` are a Gaussian whose
    numbers are its mean and then its std, or the logarithm of it: short for ``std = {half = true, of = "log_std"}``.
    A module may give ``probabilities``, whose logarithm is served, or the ``action`` that it chose, which is served
    without scores. With ``squash = "tanh"`` the action is tanh of the network's numbers, brought to the bounds of the
    action; the tensors named ``action_scale`` and ``action_bias`` are compared with those bounds where the file has
    them.
    """

    head: Literal[
        "q_values", "logits", "gaussian", "deterministic", "mean_log_std", "mean_std", "probabilities", "action"
    ] = "q_values"
    std: Annotated[Std | None, BeforeValidator(_std)] = None
    squash: Literal["none", "tanh"] = "none"
    unscale: Unscale | None = None
    action_scale: str = "action_scale"
    action_bias: str = "action_bias"

    @model_validator(mode="before")
    @classmethod
    def _halves_are_a_gaussian(cls, table: object) -> object:
        word = table.get("head") if isinstance(table, dict) else None
        if not isinstance(table, dict) or not isinstance(word, str) or word not in _HALVES:
            return table
        if "std" in table:
            msg = (
                f"head is {word!r}, which has its std in it, expected no std, or head = 'gaussian' and std.half = true"
            )
            raise ValueError(msg)
        return table | {"head": "gaussian", "std": {"half": True, "of": _HALVES[word]}}

    @model_validator(mode="after")
    def _head_and_std_fit(self) -> "Heads":
        if (self.head == "gaussian") != (self.std is not None):
            msg = f"head is {self.head!r}, expected std with 'gaussian' and with no other"
            raise ValueError(msg)
        if self.head not in ("gaussian", "deterministic") and (self.squash != "none" or self.unscale is not None):
            msg = f"head is {self.head!r}, expected squash and unscale with 'gaussian' or 'deterministic' only"
            raise ValueError(msg)
        if self.squash == "tanh" and self.unscale is not None:
            msg = "squash = 'tanh' brings actions to their bounds itself, expected no unscale with it"
            raise ValueError(msg)
        return self


class Network(Frozen):
    """What all networks have: convolutions and linear layers with an activation after each.

    ``layers`` (or the names of a network's parts) give the layers' names in order where the file's order is unsure.
    ``key`` is where in the file the state dict is, for checkpoints that hold more than one: a name, or a place in a
    list. ``ignore`` are the beginnings of names of tensors that no action depends on, a critic's for instance.
    ``ignore_beside`` names what lies beside ``key`` and looks like statistics of observations, but is of something
    else: whole dotted names, or their beginnings up to a dot.
    ``norm`` normalises behind convolutions and hidden layers, ``input_norm`` in front of the first one.
    """

    convolutions: Convolutions = ()
    hidden: Widths = ()
    activation: str = "ReLU"
    norm: BehindLayers = None
    input_norm: OnInput = None
    key: Where = ""
    ignore: Names = ()
    ignore_beside: Annotated[tuple[Where, ...], Constrained(max_length=256)] = ()
    encoders: Annotated[tuple[Encoder, ...], Constrained(max_length=16)] = ()


class MlpNetwork(Network, Heads):
    """Layers with an activation between them, and one head."""

    kind: Literal["mlp"] = "mlp"
    layers: Names = ()


class DuelingNetwork(Network):
    """A trunk, and two streams on it: a state's value and its actions' advantages.

    The streams' layers are those with ``value`` and ``advantage`` in their names, unless they are named.
    The activation stands between the layers of each part and after the trunk.
    """

    kind: Literal["dueling"]
    value_hidden: Widths = ()
    advantage_hidden: Widths = ()
    trunk: Names = ()
    value: Names = ()
    advantage: Names = ()


class C51Network(Network):
    """A distribution over ``n_atoms`` returns from ``v_min`` to ``v_max`` for each action, action by action."""

    kind: Literal["c51"]
    layers: Names = ()
    n_atoms: Annotated[int, Constrained(ge=2, le=4096)]
    v_min: float
    v_max: float
    atoms: str = "atoms"

    @model_validator(mode="after")
    def _atoms_ascend(self) -> "C51Network":
        if self.v_min >= self.v_max:
            msg = f"v_min is {self.v_min}, expected less than v_max, which is {self.v_max}"
            raise ValueError(msg)
        return self


class QuantileNetwork(Network):
    """``n_quantiles`` quantiles of the return for each action.

    ``order`` says how the last layer's numbers lie: ``quantiles_first`` is [n_quantiles, actions] as in sb3-contrib,
    ``actions_first`` is [actions, n_quantiles]. There is no default: the wrong one gives a plausible wrong policy.
    """

    kind: Literal["quantile"]
    layers: Names = ()
    n_quantiles: Annotated[int, Constrained(ge=1, le=4096)]
    order: Literal["quantiles_first", "actions_first"]


class LstmNetwork(Network, Heads):
    """Layers before, a recurrent cell, layers behind it; its state goes in and out, and is zero as an episode begins.

    ``lstm`` is the name that the cell's tensors begin with; ``hidden`` are the layers before the cell, ``after`` those
    between it and the head; ``layers`` names all of them in order.
    """

    kind: Literal["lstm"]
    cell: Literal["lstm", "gru"] = "lstm"
    lstm: str = "lstm"
    units: Width
    depth: Annotated[int, Constrained(ge=1, le=8)] = 1
    after: Widths = ()
    layers: Names = ()


class ModuleNetwork(Heads):
    """A whole module whose ``forward`` is the network: TorchScript, or a module in memory.

    ``outputs`` are the places of those of its outputs that are the head, side by side: one for each choice of several,
    for instance.
    """

    kind: Literal["module"]
    outputs: Annotated[tuple[Annotated[int, Constrained(ge=0, le=255)], ...], Constrained(min_length=1)] = (0,)

    @model_validator(mode="after")
    def _each_output_once(self) -> "ModuleNetwork":
        places = [*self.outputs, *([self.std.output] if self.std is not None and self.std.output is not None else [])]
        if len(set(places)) < len(places):
            msg = f"outputs and std.output are {places}, expected each place once"
            raise ValueError(msg)
        return self
