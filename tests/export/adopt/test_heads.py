"""Heads that are more than one plain output: mean and std in one or in two, and one output a branch."""

from pathlib import Path

import numpy as np
import pytest

from export.adopt.adoption import adopt
from export.adopt.command import run
from export.adopt.reading import Said
from export.errors import AdoptionRefused, HeadImplausible, OptionInvalid
from export.spec import Box, MultiDiscrete
from export.spec.artefact import open_artefact
from tests.export.adopt.files import File, answered, finished, rows
from tests.export.adopt.test_adoption import original
from tests.export.adopt.test_deploy import deploy


def gaussian(how: str) -> File:
    """Give a file with two means and their spread: in one output or two, as std or its logarithm, free or not."""
    file = File()
    obs = file.input("obs", ["batch", 4])
    mean = file.network(obs, 4, 2, out="mu")
    if "free" in how:
        spread = file.add("Identity", file.constant([-0.5, 0.3]), out="spread")
    else:
        log_std = file.add("Tanh", file.network(obs, 4, 2))
        spread = file.add("Exp" if "std" in how.split() else "Identity", log_std, out="spread")
    if "joined" in how:
        wide = file.add("Add", file.add("Mul", mean, file.constant([0.0])), spread) if "free" in how else spread
        file.add("Concat", mean, wide, axis=1, out=file.output("dist", ["batch", 4]))
    else:
        file.output("mu", ["batch", 2])
        file.output("spread", [2] if "free" in how else ["batch", 2])
    return file


WAYS = ["joined log", "joined free log", "joined std", "apart log", "apart free log", "apart std"]


@pytest.mark.parametrize("how", WAYS)
def test_mean_and_std_are_split_or_joined(how: str) -> None:
    """The first half or the first output is the mean, the rest its std or the logarithm of it."""
    data = gaussian(how).data()
    said = Said(
        head="mean_std" if "std" in how.split() else "mean_log_std",
        outputs=() if "joined" in how else ("mu", "spread"),
        action_low=(-1.0, -2.0),
        action_high=(1.0, 2.0),
    )
    seen = rows(100, 4)

    artefact = finished(data, said)
    found = answered(artefact, {"obs": seen})

    mean, spread = original(data, *(("mu", "spread") if "joined" in how else ())).run(["mu", "spread"], {"obs": seen})
    std = spread if "std" in how.split() else np.exp(spread)
    assert np.abs(found["mean"] - mean).max() <= 1e-5
    assert np.abs(found["std"] - std).max() <= 1e-5
    assert np.abs(found["action"] - np.clip(mean, [-1, -2], [1, 2])).max() <= 1e-5
    assert isinstance(artefact.manifest.action, Box)
    assert artefact.manifest.action.low == (-1.0, -2.0)


def test_a_mean_before_its_tanh_keeps_its_std() -> None:
    """SAC's [mean, log_std] is squashed between the bounds, its std before that."""
    data = gaussian("joined log").data()
    seen = rows(50, 4)

    found = answered(
        finished(data, Said(head="mean_log_std", squash="tanh", action_low=(-3.0,), action_high=(3.0,))), {"obs": seen}
    )

    mean, spread = original(data, "mu", "spread").run(["mu", "spread"], {"obs": seen})
    assert np.abs(found["action"] - 3 * np.tanh(mean)).max() <= 1e-5
    assert np.abs(found["std"] - np.exp(spread)).max() <= 1e-5


def test_a_fixed_batch_has_its_halves_too() -> None:
    """Of 32 rows at once a free log-std comes once, and each row has it."""
    file = gaussian("apart free log")
    file.inputs[0].type.tensor_type.shape.dim[0].dim_value = 32
    seen = rows(64, 4)

    found = answered(finished(file.data(), Said(head="mean_log_std", outputs=("mu", "spread"))), {"obs": seen})

    assert np.abs(found["std"] - np.exp(np.array([-0.5, 0.3], np.float32))).max() <= 1e-6


def test_a_robots_scale_goes_to_mean_and_std() -> None:
    """With a deploy.yaml the mean is scaled and moved, and the std behind it scaled, after its exponential."""
    file = File()
    file.network(file.input("obs", [1, 5]), 5, 4, out=file.output("actions", [1, 4]))

    said, zeros = Said(head="mean_log_std"), {"obs": np.zeros((1, 5), np.float32)}
    plain = answered(finished(file.data(), said), zeros)
    robot = answered(finished(file.data(), said, deploy=deploy(1)), zeros)

    assert np.abs(robot["mean"] - (plain["mean"] * [0.25, 0.5] + [0.1, -0.1])).max() <= 1e-6
    assert np.abs(robot["std"] - plain["std"] * [0.25, 0.5]).max() <= 1e-6


def test_a_log_std_taken_for_a_std_is_refused() -> None:
    """A std below 0 is none, and the message says what it may be."""
    with pytest.raises(HeadImplausible, match=r"the std is negative .* say --head mean_log_std"):
        finished(gaussian("joined log").data(), Said(head="mean_std"))


def test_a_log_std_that_overflows_is_refused() -> None:
    """What is no log-std, scores in the hundreds for instance, has no exponential in float32."""
    file = File()
    large = file.add("Mul", file.network(file.input("obs", ["batch", 4]), 4, 4), file.constant([500.0]))
    file.add("Identity", large, out=file.output("dist", ["batch", 4]))

    with pytest.raises(AdoptionRefused, match="'std' with NaN or infinity"):
        adopt(file.data(), Said(head="mean_log_std"))


def branched(*sizes: int, scale: float = 1.0) -> File:
    """Give a file with one output for each branch, called A, B, C."""
    file = File()
    obs = file.input("obs", ["batch", 4])
    for name, size in zip("ABC", sizes, strict=False):
        found = file.add("Mul", file.network(obs, 4, size), file.constant([scale]))
        file.add("Identity", found, out=file.output(name, ["batch", size]))
    return file


@pytest.mark.parametrize("words", [["--output-name", "A,B,C"], ["--output-name", "A", "--output-name", "B,C"]])
def test_one_output_a_branch_is_one_factor_each(words: list[str], tmp_path: Path) -> None:
    """Several outputs stand side by side as the factors of one action, in the order they are named."""
    data = branched(3, 2, 4).data()
    (tmp_path / "theirs.onnx").write_bytes(data)
    seen = rows(60, 4)

    run([str(tmp_path / "theirs.onnx"), "-o", str(tmp_path / "game-1.onnx"), "--head", "logits", *words])

    artefact = open_artefact((tmp_path / "game-1.onnx").read_bytes())
    assert isinstance(artefact.manifest.action, MultiDiscrete)
    assert artefact.manifest.action.sizes == (3, 2, 4)
    told = original(data).run(["A", "B", "C"], {"obs": seen})
    found = answered(artefact, {"obs": seen})
    assert np.abs(found["logits"] - np.concatenate(told, axis=1)).max() <= 1e-5
    assert np.array_equal(found["action"], np.stack([part.argmax(axis=1) for part in told], axis=1))


def test_several_means_are_the_numbers_of_one_action() -> None:
    """Steering, throttle and brake as outputs of their own are one action of three numbers."""
    data = branched(1, 1, 1).data()
    seen = rows(40, 4)

    artefact = finished(data, Said(head="mean", outputs=("B", "A", "C")))

    assert artefact.manifest.action.width == 3
    told = original(data).run(["B", "A", "C"], {"obs": seen})
    assert np.abs(answered(artefact, {"obs": seen})["mean"] - np.concatenate(told, axis=1)).max() <= 1e-5


def test_a_mask_of_several_outputs_forbids_in_each() -> None:
    """The mask is that of all branches, one after another."""
    file = File()
    obs, mask = file.input("obs", ["batch", 4]), file.input("action_mask", ["batch", 5], "bool")
    for name, start, end in (("A", 0, 3), ("B", 3, 5)):
        part = file.add("Slice", mask, *(file.constant([n], "int64") for n in (start, end, 1)))
        logits = file.network(obs, 4, end - start)
        file.add("Where", part, logits, file.constant(-1e8), out=file.output(name, ["batch", end - start]))

    artefact = finished(file.data(), Said(head="logits", outputs=("A", "B")))

    allowed = np.tile([False, False, True, True, False], (20, 1))
    found = answered(artefact, {"obs": rows(20, 4), "action_mask": allowed})
    assert np.array_equal(found["action"], np.tile([2, 0], (20, 1)))


@pytest.mark.parametrize(
    ("sizes", "said", "message"),
    [
        ((5,), Said(head="mean_log_std", outputs=("A",)), "A has 5 numbers, expected an even number"),
        ((5,), Said(head="mean_std"), "A has 5 numbers, expected an even number"),
        ((2, 3), Said(head="mean_log_std", outputs=("A", "B")), r"the std \(B\) has 3 numbers, expected 2"),
        ((2, 2, 2), Said(head="mean_std", outputs=("A", "B", "C")), "expected one output of both, or two"),
        ((3, 2), Said(head="q_values", outputs=("A", "B")), "q_values, which is one choice's, expected one output"),
        ((5,), Said(head="q_values", sizes=(3, 2)), "the head is 'q_values', expected 'logits' for several"),
        ((3, 2), Said(head="logits", outputs=("A", "D")), "--output-name is 'D', expected one of the outputs A, B"),
        ((3, 2), Said(head="logits", outputs=("A", "A")), "'A', expected one of the outputs A, B, each once"),
        ((3, 2), Said(head="logits"), r"could be the head are A, B: say which with --output-name \(several as A,B\)"),
        ((3, 2), Said(outputs=("A", "B")), "what the output 'A' and 'B' is, say --head with one of logits"),
        ((4,), Said(head="mean_log_std", action_low=(-1.0,) * 4), "--action-low has 4 entries, expected 2"),
        ((3, 2), Said(head="logits", outputs=("A", "B"), sizes=(3, 3)), r"has 5 numbers, expected 3 \+ 3"),
    ],
)
def test_outputs_that_do_not_go_together_are_refused(sizes: tuple[int, ...], said: Said, message: str) -> None:
    """Counts, widths and names that do not fit are said with what was expected."""
    with pytest.raises(OptionInvalid, match=message):
        adopt(branched(*sizes).data(), said)


def stacked(choices: int, each: int, *, share: bool = False) -> bytes:
    """Give a file whose head has two axes a row: the outcomes of a distribution, or several choices at once."""
    file = File()
    flat = file.network(file.input("obs", ["batch", 4]), 4, choices * each)
    rows_of = file.add("Reshape", flat, file.constant([-1, choices, each], "int64"))
    name = file.output("q", ["batch", choices, each])
    file.add("Softmax" if share else "Identity", rows_of, out=name, **({"axis": 2} if share else {}))
    return file.data()


@pytest.mark.parametrize(
    ("data", "said", "message"),
    [
        (stacked(4, 11, share=True), Said(head="q_values"), "4 x 11 numbers a row, .* before it is exported$"),
        (stacked(4, 11), Said(head="logits"), "for 4 choices of 11 each say --factors 11,11,11,11$"),
        (stacked(20, 3), Said(head="q_values"), "20 x 3 numbers a row"),
        (stacked(2, 3, share=True), Said(head="probabilities"), "for 2 choices of 3 each say --factors 3,3$"),
        (stacked(2, 3), Said(head="logits", sizes=(2, 4)), "2 x 3 numbers a row"),
    ],
)
def test_outcomes_of_a_distribution_are_no_actions(data: bytes, said: Said, message: str) -> None:
    """A C51's atoms and a QR-DQN's quantiles, laid flat, would each be an action of its own."""
    with pytest.raises(OptionInvalid, match=message):
        adopt(data, said)


@pytest.mark.parametrize("head", ["logits", "probabilities"])
def test_choices_on_an_axis_of_their_own_are_told(head: str) -> None:
    """[choices, of each] is several choices at once where --factors says so, and each is taken by itself."""
    data = stacked(3, 5, share=head == "probabilities")
    seen = rows(200, 4)

    found = answered(finished(data, Said(head=head, sizes=(5, 5, 5))), {"obs": seen})

    assert np.array_equal(found["action"], original(data).run(["q"], {"obs": seen})[0].argmax(axis=2))


@pytest.mark.parametrize("shape", [(1, 4), (4, 1)])
def test_an_axis_of_length_one_is_none(shape: tuple[int, int]) -> None:
    """[B, 1, 4] and [B, 4, 1] are four numbers a row."""
    data, seen = stacked(*shape), rows(50, 4)

    found = answered(finished(data, Said(head="q_values")), {"obs": seen})

    assert np.array_equal(found["q_values"], original(data).run(["q"], {"obs": seen})[0].reshape(50, 4))


@pytest.mark.parametrize(
    ("names", "right"),
    [
        (("log_std", "mu"), "mu,log_std"),
        (("action_std", "action_mean"), "action_mean,action_std"),
        (("sigma", "loc"), "loc,sigma"),
    ],
)
def test_a_std_before_its_mean_is_refused_by_their_names(names: tuple[str, str], right: str) -> None:
    """The mean comes first: the other way round a log-std would be carried out."""
    file = File()
    obs = file.input("obs", ["batch", 4])
    for name in names:
        file.network(obs, 4, 2, out=file.output(name, ["batch", 2]))

    with pytest.raises(OptionInvalid, match=f"expected the mean's first: --output-name {right}"):
        adopt(file.data(), Said(head="mean_log_std", outputs=names))
    assert adopt(file.data(), Said(head="mean_log_std", outputs=(names[1], names[0]))).meaning.head == "gaussian"
