"""The operators that TorchScript code may call: they give tensors and numbers, and touch nothing else."""

from collections.abc import Callable, Mapping, Sequence

import torch

from export.errors import CheckpointRefused
from export.scripted.layers import LAYERS
from export.scripted.lists import ON_ANYTHING, ON_NUMBERS, plain, worked_out

# torch's own operators, called as they are.
_TENSOR = frozenset(
    """
    abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d add addcdiv addcmul addmm addmv addr all amax amin aminmax any arange arccos arcsin arctan
    arctan2 argmax argmin argsort as_tensor asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d
    avg_pool2d avg_pool3d baddbmm bilinear bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift
    bitwise_xor block_diag bmm broadcast_tensors broadcast_to bucketize cat ceil celu channel_shuffle chunk clamp
    clamp_max clamp_min clip clone concat concatenate constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d copysign cos cosh cosine_similarity count_nonzero cross cummax cummin cumprod
    cumsum deg2rad detach diag diag_embed diagonal diff digamma div divide dot dsplit einsum elu embedding eq erf erfc
    erfinv exp exp2 expand expand_as expm1 eye fix flatten flip fliplr flipud floor floor_divide fmod frac full
    full_like gather ge gelu glu greater greater_equal group_norm gru_cell gt hardshrink hardsigmoid hardswish hardtanh
    heaviside hsplit im2col index index_add index_copy index_fill index_select inner instance_norm isclose isfinite
    isinf isnan isneginf isposinf kron layer_norm le leaky_relu lerp less less_equal lgamma linalg_cross
    linalg_matrix_norm linalg_norm linalg_vecdot linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid
    log_softmax logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit logspace logsumexp lstm_cell
    lt matmul matrix_H mT max max_pool1d max_pool2d max_pool3d maximum mean median meshgrid min minimum mish mm
    moveaxis movedim mul multiply mv nan_to_num nanmean nansum narrow ne neg negative new_full new_ones new_zeros norm
    not_equal numel numpy_T one_hot ones ones_like outer pad pairwise_distance permute pixel_shuffle pixel_unshuffle
    positive pow prelu prod rad2deg ravel reciprocal reflection_pad1d reflection_pad2d relu relu6 remainder repeat
    repeat_interleave replication_pad1d replication_pad2d reshape reshape_as rms_norm rnn_relu_cell rnn_tanh_cell roll
    rot90 round rsqrt rsub scatter scatter_add scatter_reduce searchsorted select select_scatter selu sgn sigmoid sign
    signbit silu sin sinc sinh slice slice_scatter softmax softplus softshrink sort special_entr special_erf
    special_erfinv special_expit special_expm1 special_log1p special_log_softmax special_logit special_logsumexp
    special_sinc special_softmax special_xlogy split split_with_sizes sqrt square squeeze stack std std_mean sub
    subtract sum swapaxes swapdims t tan tanh tensor_split tensordot threshold tile topk trace transpose tril
    tril_indices triu triu_indices true_divide trunc type_as unbind unflatten unfold unsafe_chunk unsafe_split
    unsafe_split_with_sizes unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_trilinear3d var var_mean
    vdot view view_as vsplit where xlogy zeros zeros_like __and__ __lshift__ __or__ __rshift__ __xor__ _weight_norm
    """.split()
)
# Those that write into the tensor that comes first.
_IN_PLACE = frozenset(
    """
    abs_ add_ addcdiv_ addcmul_ addmm_ atan_ bitwise_and_ bitwise_not_ bitwise_or_ bitwise_xor_ ceil_ celu_ clamp_
    clamp_max_ clamp_min_ clip_ copy_ cos_ cumsum_ div_ divide_ elu_ erf_ exp_ expm1_ fill_ floor_ floor_divide_ fmod_
    frac_ gelu_ hardsigmoid_ hardswish_ hardtanh_ index_add_ index_copy_ index_fill_ index_put_ leaky_relu_ lerp_
    log1p_ log_ logical_and_ logical_not_ logical_or_ masked_fill_ mish_ mul_ multiply_ nan_to_num_ neg_ negative_ pow_
    reciprocal_ relu6_ relu_ remainder_ round_ rsqrt_ scatter_ scatter_add_ selu_ sigmoid_ sign_ silu_ sin_ sqrt_
    square_ sub_ subtract_ tan_ tanh_ threshold_ tril_ triu_ true_divide_ trunc_ zero_ __iand__ __ior__ __ixor__
    """.split()
)
# They may stand in the code, in a branch for training as a rule; where they are reached the module is refused.
_RANDOM = frozenset(
    """
    bernoulli bernoulli_ multinomial normal normal_ rand rand_like randint randint_like randn randn_like uniform_
    exponential_ poisson randperm gumbel_softmax random_ cauchy_ geometric_ log_normal_
    """.split()
)
# Short cuts of torch's attention, and what takes numbers out of tensors: they may stand in the code as well.
_NOT_REACHED = frozenset(
    """
    _native_multi_head_attention _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned to_padded_tensor
    _transformer_encoder_layer_fwd
    """.split()
)
_TAKES_NUMBERS = frozenset(
    """
    Bool BoolImplicit Float FloatImplicit Int IntImplicit ScalarImplicit allclose equal is_nonzero item masked_select
    nonzero tolist unique unique_consecutive _local_scalar_dense
    """.split()
)
_DTYPES: Mapping[int, torch.dtype] = {
    0: torch.uint8,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.int64,
    5: torch.float16,
    6: torch.float32,
    7: torch.float64,
    11: torch.bool,
    15: torch.bfloat16,
}
_NUMBERS: Mapping[torch.dtype, int] = {dtype: number for number, dtype in _DTYPES.items()}
# Numbers of one tensor, for a batch of one; and tensors that one is cut into.
_LARGEST = 2**25
_MOST_PARTS = 2**16
_CUTS = frozenset("chunk split split_with_sizes tensor_split unbind unsafe_chunk unsafe_split".split())
# What says where and how a tensor lies, which does not matter here.
_PLACES = ("layout", "device", "pin_memory", "memory_format")
INSTEAD = (
    "declare the layers over the weights alone (torch.save of its state_dict()), or give the module itself to "
    "export.module.of_module in Python"
)


def _size(tensor: torch.Tensor, axis: int | None = None) -> object:
    return list(tensor.shape) if axis is None else tensor.shape[axis]


def _to(tensor: torch.Tensor, *given: object, **named: object) -> torch.Tensor:
    """Bring a tensor to another dtype; TorchScript writes dtypes as numbers, and devices do not matter here.

    The second truth value among what is given says that it has to be a copy.
    """
    dtype = tensor.dtype
    for value in (*given, *named.values()):
        if isinstance(value, torch.Tensor):
            dtype = value.dtype
        elif isinstance(value, int) and not isinstance(value, bool):
            dtype = dtype_of(value)
        elif isinstance(value, torch.dtype):
            dtype = value
    truths = [value for value in given if isinstance(value, bool)]
    return tensor.to(dtype, copy=named.get("copy") is True or truths[1:2] == [True])


def dtype_of(number: object) -> torch.dtype:
    """Give the dtype that TorchScript writes as a number."""
    if isinstance(number, torch.dtype):
        return number
    if isinstance(number, int) and number in _DTYPES:
        return _DTYPES[number]
    msg = f"the module's code uses the dtype number {number}, expected one of {sorted(_DTYPES)}"
    raise CheckpointRefused(msg)


def _raise(*said: object) -> None:
    msg = f"the module's own code refuses its input: {' '.join(str(part) for part in said)[:200]}"
    raise CheckpointRefused(msg)


def _made(value: object, dtype: torch.dtype | None = None, **_: object) -> torch.Tensor:
    return value.to(dtype or value.dtype) if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=dtype)


def _copied(tensor: torch.Tensor, source: torch.Tensor, *_: object) -> torch.Tensor:
    # One number for all of a part: torch's exporter forgets that it has to be spread.
    return tensor.copy_(source if source.dim() == tensor.dim() else source.expand(tensor.shape))


_SPECIAL: Mapping[str, Callable[..., object]] = {
    **LAYERS,
    **ON_ANYTHING,
    "RaiseException": _raise,
    "as_tensor": _made,
    "copy_": _copied,
    "data": torch.Tensor.detach,
    "detach_": lambda tensor: tensor,
    "device": lambda *_: "cpu",
    "dim": torch.Tensor.dim,
    "dtype": lambda tensor: _NUMBERS.get(tensor.dtype, -1),
    # What lies in fresh memory is nobody's: zeros, so that the answer is the same every time.
    "empty": torch.ops.aten.zeros,
    "empty_like": torch.ops.aten.zeros_like,
    "is_autocast_cpu_enabled": lambda *_: False,
    "is_autocast_enabled": lambda *_: False,
    "is_contiguous": lambda tensor, **_: tensor.is_contiguous(),
    "is_cuda": lambda _: False,
    "is_floating_point": torch.Tensor.is_floating_point,
    # That gradients are asked for keeps torch's attention off its short cuts.
    "is_grad_enabled": lambda: True,
    "is_mkldnn": lambda _: False,
    "is_nested": lambda _: False,
    "is_quantized": lambda _: False,
    "is_sparse": lambda _: False,
    "numel": torch.Tensor.numel,
    "ndim": torch.Tensor.dim,
    "new_empty": torch.ops.aten.new_zeros,
    "new_tensor": lambda tensor, value, **named: _made(value, tensor.dtype, **named),
    "requires_grad": lambda _: True,
    "requires_grad_": lambda tensor, *_: tensor,
    "shape": _size,
    "size": _size,
    "tensor": _made,
    "to": _to,
    "type": lambda *_: "cpu",
    "warn": lambda *_, **__: None,
}
ALLOWED = _TENSOR | _IN_PLACE | _SPECIAL.keys() | ON_NUMBERS.keys() | _RANDOM | _NOT_REACHED | _TAKES_NUMBERS


def writes(name: str) -> bool:
    """Say whether an operator writes into the tensor that comes first."""
    return name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def call(name: str, given: Sequence[object], named: Mapping[str, object]) -> object:
    """Work out one operator; raises CheckpointRefused where it is not on the list, or must not be reached."""
    keywords = {key: value for key, value in named.items() if key not in _PLACES}
    if keywords.get("dtype") is not None:
        keywords["dtype"] = dtype_of(keywords["dtype"])
    if name == "div" and "rounding_mode" in keywords and isinstance(given[0], (int, torch.SymInt)):
        # Of sizes, which are not below zero.
        name, keywords = "floordiv", {}
    if (numbers := plain(name, given, keywords)) is not None:
        return worked_out(name, numbers)
    if name in _SPECIAL:
        return _within(_SPECIAL[name](*given, **keywords), name)
    _refuse_unreachable(name, given)
    return _within(getattr(torch.ops.aten, name)(*given, **keywords), name)


def _refuse_unreachable(name: str, given: Sequence[object]) -> None:
    if name in _RANDOM:
        msg = f"the module's code calls torch.{name}, which draws random numbers: export the head, not its samples"
        raise CheckpointRefused(msg)
    if name in _TAKES_NUMBERS:
        msg = (
            f"the module's code calls torch.{name} on a tensor: its way, and its shapes, must not depend on its numbers"
        )
        raise CheckpointRefused(msg)
    if name not in _TENSOR and name not in _IN_PLACE:
        msg = f"the module's code calls torch.{name}, which cannot be worked out here: {INSTEAD}"
        raise CheckpointRefused(msg)
    if name in _CUTS and isinstance(given[0], torch.Tensor):
        longest = max((size for size in given[0].shape if type(size) is int), default=0)
        if longest > _MOST_PARTS:
            msg = f"the module's code cuts a tensor of {longest} rows apart by {name}, expected at most {_MOST_PARTS}"
            raise CheckpointRefused(msg)


def _within(found: object, name: str) -> object:
    """Refuse a tensor that grew beyond all measure; one whose size is not known yet is part of an export by then."""
    for tensor in found if isinstance(found, (list, tuple)) else (found,):
        count = tensor.numel() if isinstance(tensor, torch.Tensor) else 0
        if type(count) is int and count > _LARGEST:
            msg = f"the module's code makes a tensor of {count} numbers by {name}, expected at most {_LARGEST}"
            raise CheckpointRefused(msg)
    return found
