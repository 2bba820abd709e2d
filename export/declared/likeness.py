"""What looks like the statistics that a normaliser keeps of observations, by its name and its form.

Names are read word by word, so that ``variant`` is no variance and ``normal`` no norm. The words are those of the
normalisers that people have: Gymnasium's and Tianshou's ``obs_rms`` (mean, var, count), rsl_rl's
``obs_norm_state_dict`` (_mean, _var, _std, count), skrl's ``state_preprocessor`` (running_mean, running_variance),
rl_games' ``running_mean_std``, scikit-learn's scalers, and filters as older code calls them.
"""

import math
import re
from collections.abc import Mapping, Set

import torch

from export.declared.leaves import Opaque, is_array

MEAN = frozenset("mean means".split())
VARIANCE = frozenset("var vars variance variances".split())
DEVIATION = frozenset("std stds stdev stddev deviation".split())
COUNT = frozenset("count counts".split())
_SPREAD = VARIANCE | DEVIATION
_STRONG = (
    MEAN
    | _SPREAD
    | COUNT
    | frozenset("rms meanstd norm normalizer normaliser normalizers normalisers normalization normalisation".split())
    | frozenset("normalize normalise normed standardize standardise standardizer standardiser".split())
    | frozenset("scaler scalers preprocessor preprocessors zfilter whiten whitening welford".split())
)
# Words that say so only of as many numbers as an observation has.
_WEAK = frozenset(
    "mu sigma loc scale shift offset center centre min max stat stats statistics moments filter obs observation "
    "observations ob avg average running state states input inputs".split()
)
# Moments of gradients, and statistics of rewards and losses: no action depends on those.
_OTHERS = frozenset(
    "optimizer optimizers optimiser optimisers optim optims opt opts adam adamw exp scheduler schedulers "
    "reward rewards return returns ret loss losses score scores grad grads lr".split()
)
# What a name says besides of the numbers of one normaliser, which belong together.
_FILLERS = frozenset("running current moving num total batches tracked n eps epsilon clip sum sq".split())
_ROWS = 4
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_BATCH_NORM = ("running_mean", "running_var", "num_batches_tracked")
# Empty containers, texts and truths hold no statistics, whatever they are called.
_PLAIN = frozenset("NoneType bool str bytes dict list tuple OrderedDict set frozenset".split())


def words(name: str) -> frozenset[str]:
    """Give the words of a name in small letters: ``RunningMeanStd`` and ``running_mean_std`` have the same."""
    return frozenset(word.lower() for word in _WORD.findall(name))


def stem(name: str) -> tuple[str, frozenset[str]]:
    """Give what the numbers of one normaliser have in common: ``obs_mean``, ``obs_var`` and ``obs_count`` are alike."""
    parent, _, last = name.rpartition(".")
    return parent, words(last) - _STRONG - _FILLERS


def statistics_among(leaves: Mapping[str, object], sizes: Set[int]) -> tuple[str, ...]:
    """Name the leaves that look like statistics of observations, whose parts have so many numbers each.

    Layers' own weights and batch normalisation stay out where they lie in a network. One number is no statistic but as
    a mean beside a deviation: a count of episodes normalises nothing.
    """
    networks = {
        _top(name) for name, leaf in leaves.items() if name.endswith("weight") and _axes(leaf) > 1 and "." in name
    }
    scalars = _paired(leaves)
    return tuple(
        name
        for name, leaf in leaves.items()
        if not words(name) & _OTHERS
        and (name in scalars or _tells(name, leaf, sizes))
        and not (_top(name) in networks and _is_layers(name, leaves))
    )


def _tells(name: str, leaf: object, sizes: Set[int]) -> bool:
    said = words(name)
    if isinstance(leaf, Opaque):
        return leaf.kind not in _PLAIN and bool((said | words(leaf.kind)) & _STRONG)
    if not is_array(leaf) or "log" in words(name.rpartition(".")[2]):
        return False
    return bool(said & _STRONG) or (bool(said & _WEAK) and _fits(leaf, sizes))


def _paired(leaves: Mapping[str, object]) -> set[str]:
    """Name the single numbers that are a mean with a variance or a deviation beside it."""
    singles = [
        name for name, leaf in leaves.items() if not isinstance(leaf, Opaque) and not is_array(leaf) and name != ""
    ]
    last = {name: words(name.rpartition(".")[2]) for name in singles}
    means = {stem(name) for name in singles if last[name] & MEAN}
    spreads = {stem(name) for name in singles if last[name] & _SPREAD}
    return {name for name in singles if last[name] & (MEAN | _SPREAD) and stem(name) in means & spreads}


def _is_layers(name: str, leaves: Mapping[str, object]) -> bool:
    """Say whether a tensor in a network is one of its own: a weight, a batch norm's, or a policy's deviation."""
    parent, _, last = name.rpartition(".")
    if last in ("weight", "bias"):
        return True
    if last in _BATCH_NORM:
        return f"{parent}.num_batches_tracked" in leaves
    return (last == "std" and parent == _top(name)) or not words(name.removeprefix(_top(name))) & _STRONG


def _top(name: str) -> str:
    return name.partition(".")[0]


def _axes(leaf: object) -> int:
    return leaf.ndim if isinstance(leaf, torch.Tensor) else 1


def _fits(leaf: object, sizes: Set[int]) -> bool:
    """Say whether there is a number for each of an observation's, or a few such rows: ``[mean, var]`` as one."""
    shape: list[int] = list(leaf.shape) if isinstance(leaf, torch.Tensor) else []
    while isinstance(leaf, (list, tuple)) and leaf:
        shape.append(len(leaf))
        leaf = leaf[0]
    several = len(shape) == 2 and min(shape) <= _ROWS and max(shape) in sizes
    return several or (len(shape) <= 1 and math.prod(shape) in sizes)
