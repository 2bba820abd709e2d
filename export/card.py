"""The card of a policy: what an artefact says about itself, for people and as JSON."""

import json
from collections.abc import Iterator

from export.spec import Artefact, Fields, Manifest


def card_json(artefact: Artefact) -> str:
    """Give the manifest as JSON, without the golden rows' numbers and with digest and size."""
    manifest = artefact.manifest
    values = manifest.model_dump(mode="json", exclude={"golden"})
    golden = manifest.golden.inputs["obs"].shape[0]
    values |= {"digest": artefact.digest, "bytes": len(artefact.data), "golden_rows": golden}
    return json.dumps(values | {"operators": sorted(artefact.operators)}, indent=2)


def card(artefact: Artefact) -> str:
    """Give the card as lines of text."""
    return "\n".join(_printable(line) for line in _lines(artefact))


def _printable(line: str) -> str:
    """Show control characters as escapes: an artefact of somebody else's must not move the reader's cursor."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def _lines(artefact: Artefact) -> Iterator[str]:
    manifest = artefact.manifest
    source = manifest.source
    library = " ".join(part for part in (source.library, source.library_version) if part)
    yield f"{manifest.name} {manifest.version}"
    if manifest.description:
        yield f"  {manifest.description}"
    yield f"digest       sha256 {artefact.digest}  ({len(artefact.data) / 1024:.1f} KiB, opset {manifest.opset})"
    yield f"family       {manifest.family}, head {manifest.head}"
    yield f"source       {source.algorithm or 'network'} of {library}"
    if source.checkpoint_sha256:
        yield f"             checkpoint sha256 {source.checkpoint_sha256}"
    for text in manifest.inside:
        yield f"inside       {text}"
    if manifest.control_period_s is not None:
        yield f"period       {manifest.control_period_s:g} s"
    for key in ("author", "license", "date", "notes"):
        if value := getattr(manifest, key):
            yield f"{key:<12} {value}"
    yield ""
    yield from _spaces(manifest)
    yield ""
    yield from _proof(manifest)


def _spaces(manifest: Manifest) -> Iterator[str]:
    space = manifest.observation
    if isinstance(space, Fields):
        yield f"observation  {len(space.fields)} fields, {space.dtype}"
        width = max(len(field.name) for field in space.fields)
        for at, field in enumerate(space.fields):
            bounds = f"{_bound(field.low, '-inf')} .. {_bound(field.high, 'inf')}"
            yield f"  {field.name:<{width}}  {bounds:<24} {field.unit:<8}{_seen(manifest, at)}".rstrip()
    else:
        yield f"observation  array {list(space.shape)}, {space.dtype}"
    yield f"action       one of {manifest.action.n}: {', '.join(manifest.action.names)}"
    if manifest.statistics is not None:
        taken = manifest.statistics
        yield f"statistics   of {taken.count} observations{f' from {taken.source}' if taken.source else ''}"


def _seen(manifest: Manifest, at: int) -> str:
    """Give a field's mean, standard deviation and outer quantiles in training."""
    taken = manifest.statistics
    if taken is None:
        return ""
    low, high = taken.quantiles[at][0], taken.quantiles[at][-1]
    first, last = taken.probabilities[0], taken.probabilities[-1]
    return (
        f" mean {taken.mean[at]:.4g}, std {taken.std[at]:.4g}, "
        f"{first * 100:g} % below {low:.4g}, {(1 - last) * 100:.4g} % above {high:.4g}"
    )


def _proof(manifest: Manifest) -> Iterator[str]:
    parity = manifest.parity
    yield (
        f"parity       {parity.observations} observations, {parity.reference}: same action in "
        f"{parity.action_agreement * 100:g} % ({parity.near_ties} near ties), largest error "
        f"{parity.max_abs_error:.3g} ({parity.max_scaled_error:.2g} of the scale {parity.scale:.3g}, "
        f"at most {parity.tolerance:g} allowed)"
    )
    yield f"golden rows  {manifest.golden.inputs['obs'].shape[0]}"
    found = manifest.evaluation
    if found is None:
        yield "evaluation   none"
        return
    how = "deterministic" if found.is_deterministic else "stochastic"
    yield (
        f"evaluation   {found.env}: {found.mean_reward:g} +/- {found.std_reward:g} over {found.n_eval_episodes} "
        f"episodes, {how}, {found.eval_datetime}"
    )


def _bound(value: float | None, none: str) -> str:
    return none if value is None else f"{value:g}"
