"""Dialects: each exporter's names are read as that exporter means them."""

import numpy as np
import pytest
from onnx import helper

from export.adopt.adoption import adopt
from export.adopt.reading import Said
from export.errors import AdoptionRefused, OptionInvalid, ParityFailed
from export.spec import Box, Discrete, MultiDiscrete
from export.write import finish
from tests.export.adopt.files import ABOUT, File, answered, finished, rows, simple
from tests.export.adopt.test_adoption import original


def ml_agents(version: float = 3.0, opset: int = 9) -> File:
    """Begin a file of ML-Agents with one observation and its version."""
    file = File(opset)
    file.input("obs_0", ["batch", 4])
    file.tell("version_number", [version])
    file.tell("memory_size", [0.0])
    return file


def masked(file: File, logits: str, width: int, start: int = 0, *, allowed: float = 1.0) -> str:
    """Mask logits as ML-Agents does: ``logits * mask - 1e8 * (1 - mask)``."""
    mask = file.add("Slice", "action_masks", axes=[1], starts=[start], ends=[start + width])
    if allowed == 0.0:
        mask = file.add("Add", file.add("Mul", mask, file.constant(-1.0)), file.constant(1.0))
    block = file.add("Add", file.add("Mul", mask, file.constant(-1.0)), file.constant(1.0))
    return file.add("Sub", file.add("Mul", logits, mask), file.add("Mul", block, file.constant(1e8)))


def branches(sizes: tuple[int, ...], *, allowed: float = 1.0, log_probabilities: bool = False) -> File:
    """Give a discrete policy of ML-Agents with these branches: drawn (version 3) or log-probabilities (version 2)."""
    file = ml_agents(2.0 if log_probabilities else 3.0)
    file.input("action_masks", ["batch", sum(sizes)])
    parts, start = [], 0
    for size in sizes:
        logits = masked(file, file.network("obs_0", 4, size), size, start, allowed=allowed)
        shares = file.add("Softmax", logits, axis=1)
        if log_probabilities:
            parts.append(file.add("Log", file.add("Add", shares, file.constant(1e-7))))
        else:
            parts.append(file.add("Multinomial", file.add("Log", shares), dtype=7, sample_size=1))
        start += size
    width = sum(sizes) if log_probabilities else len(sizes)
    kind = "float32" if log_probabilities else "int64"
    file.add("Concat", *parts, axis=1, out=file.output("discrete_actions", ["batch", width], kind))
    file.tell("discrete_action_output_shape", [float(size) for size in sizes])
    return file


def masks(count: int, width: int) -> np.ndarray:
    """Draw masks that allow the first action of each row, and some others."""
    drawn = np.random.default_rng(3).random((count, width)) < 0.6
    drawn[:, 0] = drawn[:, -1] = True
    return drawn


def test_several_branches_are_several_factors() -> None:
    """Version 3 draws one number per branch; their logits stand one after another."""
    found = adopt(branches((3, 2)).data(), Said())
    artefact = finished(branches((3, 2)).data(), Said())

    assert isinstance(found.meaning.action, MultiDiscrete)
    assert found.meaning.action.sizes == (3, 2)
    assert found.meaning.mask
    out = answered(artefact, {"obs": rows(9, 4), "action_mask": np.ones((9, 5), np.bool_)})
    assert out["action"].shape == (9, 2)


def test_the_same_file_gives_the_same_bytes() -> None:
    """Adopting twice gives one digest, although the file draws random numbers."""
    data = branches((3,)).data()

    assert finished(data, Said()).digest == finished(data, Said()).digest


def test_a_forbidden_action_is_never_the_answer() -> None:
    """The mask goes in as truths, and the logit of what is forbidden is far below all others."""
    artefact = finished(branches((4,)).data(), Said())
    mask = masks(60, 4)

    found = answered(artefact, {"obs": rows(60, 4), "action_mask": mask})

    assert (found["logits"][~mask] == -1e8).all()
    assert mask[np.arange(60), np.asarray(found["action"], np.int64)].all()


def test_a_mask_of_the_other_sense_is_turned() -> None:
    """Which value allows is found by trying: a file that blocks with 1 answers as one that allows with 1."""
    allowing, blocking = (finished(branches((4,), allowed=value).data(), Said()) for value in (1.0, 0.0))
    asked = {"obs": rows(30, 4), "action_mask": masks(30, 4)}

    assert np.array_equal(answered(allowing, asked)["logits"], answered(blocking, asked)["logits"])


def test_a_mask_that_masks_nothing_is_refused() -> None:
    """An input of that name that forbids no action is not taken for a mask."""
    file = ml_agents()
    mask = file.input("action_masks", ["batch", 3])
    logits = file.add("Add", file.network("obs_0", 4, 3), file.add("Mul", mask, file.constant(0.0)))
    drawn = file.add("Multinomial", file.add("LogSoftmax", logits, axis=1), dtype=7, sample_size=1)
    file.add("Identity", drawn, out=file.output("discrete_actions", ["batch", 1], "int64"))

    with pytest.raises(AdoptionRefused, match="'action_masks' is no mask of this head"):
        adopt(file.data(), Said())


def test_a_mask_that_is_left_out_is_found() -> None:
    """The proof asks with masks: a graph that ignores them is not written."""
    found = adopt(branches((4,)).data(), Said())
    for node in found.model.graph.node:
        if node.op_type in ("Where", "Cast") and node.input[0] == "action_mask":
            node.input[0] = "everything"
    everything = helper.make_node("Or", ["action_mask", "truth"], ["everything"])
    found.model.graph.node.insert(0, everything)
    found.model.graph.initializer.append(helper.make_tensor("truth", 9, [1], [True]))

    with pytest.raises(ParityFailed, match="of 'logits' differ"):
        finish(found.meaning, found.model, found.answers, ABOUT, answers_name=found.answers_name)


def test_log_probabilities_of_version_two_are_logits() -> None:
    """They are taken as they are: their softmax is what the file's own runtime drew from."""
    data = branches((3, 2), log_probabilities=True).data()
    seen = rows(40, 4)

    found = answered(finished(data, Said()), {"obs": seen, "action_mask": np.ones((40, 5), np.bool_)})

    told = original(data).run(["discrete_actions"], {"obs_0": seen, "action_masks": np.ones((40, 5), np.float32)})[0]
    assert np.abs(found["logits"] - told).max() <= 1e-5


def continuous(tail: str, output: str = "continuous_actions") -> File:
    """Give a continuous policy of ML-Agents with what comes after its mean."""
    file = ml_agents()
    mean = file.network("obs_0", 4, 2)
    log_std = file.add("Add", file.add("Mul", mean, file.constant(0.0)), file.constant([[-0.5, 0.3]]))
    std = file.add("Exp", log_std)
    found = mean
    if "uniform" in tail:
        found = file.add("Add", mean, file.add("RandomUniformLike", mean))
    elif "drawn" in tail:
        factors = [file.add("RandomNormalLike", mean), std]
        found = file.add("Add", mean, file.add("Mul", *(factors[::-1] if "turned" in tail else factors)))
    if "truth" in tail:
        found = file.add("Cast", file.add("Cast", found, to=9), to=1)
    if "tanh" in tail:
        found = file.add("Tanh", found)
    if "clip" in tail:
        found = file.add("Div", file.add("Clip", found, min=-3.0, max=3.0), file.constant(3.0))
    file.add("Identity", found, out=file.output(output, ["batch", 2]))
    return file


@pytest.mark.parametrize("tail", ["drawn clip", "drawn turned clip", "drawn tanh", "drawn", "clip", "tanh"])
def test_the_gaussian_behind_continuous_actions_is_found(tail: str) -> None:
    """Mean, std, bounds and squash are those of the tail; without a draw in it, the std is zero."""
    artefact = finished(continuous(tail).data(), Said())
    found = answered(artefact, {"obs": rows(10, 4)})

    manifest = artefact.manifest
    assert isinstance(manifest.action, Box)
    assert manifest.squash == ("tanh" if "tanh" in tail else "none")
    assert manifest.action.high == ((np.inf, np.inf) if tail == "drawn" else (1.0, 1.0))
    scale = 3.0 if "clip" in tail else 1.0
    std = np.exp([-0.5, 0.3]) / scale if "drawn" in tail else [0.0, 0.0]
    assert np.abs(np.asarray(found["std"], np.float64) - std).max() <= 1e-6


def test_the_action_of_the_first_version_is_what_it_says() -> None:
    """Where the output is called ``action``, a constant beside it says whether it is continuous."""
    file = continuous("drawn clip", output="action")
    file.tell("is_continuous_control", [1.0])

    assert isinstance(adopt(file.data(), Said()).meaning.action, Box)
    with pytest.raises(AdoptionRefused, match="nothing tells whether 'action' is continuous"):
        adopt(continuous("clip", output="action").data(), Said())


def test_a_draw_that_hides_its_head_is_refused() -> None:
    """Noise that is not mean + random * std names the operator, unless the file has a deterministic output too."""
    file = continuous("uniform clip")

    with pytest.raises(AdoptionRefused, match="RandomUniformLike"):
        adopt(file.data(), Said())
    file.network("obs_0", 4, 2, out=file.output("deterministic_continuous_actions", ["batch", 2]))
    assert adopt(file.data(), Said()).meaning.head == "gaussian"


def test_draws_of_real_numbers_are_held_against_the_head() -> None:
    """What a file draws has to be samples of the head that was found: here they become zeros and ones."""
    with pytest.raises(AdoptionRefused, match="'continuous_actions' is not drawn from the head"):
        adopt(continuous("drawn truth").data(), Said())


def test_draws_of_choices_are_held_against_the_head() -> None:
    """What a file draws has to be samples of the head that was found: here all choices but the first are one."""
    file = branches((4,))
    drawn = next(at for at, node in enumerate(file.nodes) if node.op_type == "Concat")
    truth = file.add("Cast", file.nodes[drawn].input[0], to=9)
    file.nodes[drawn].input[0] = file.add("Cast", truth, to=7)
    file.nodes.append(file.nodes.pop(drawn))

    with pytest.raises(AdoptionRefused, match="'discrete_actions' is not drawn from the head"):
        adopt(file.data(), Said())


def test_noise_that_is_not_standard_is_not_walked_through() -> None:
    """Random numbers of another mean are no part of a Gaussian that could be named."""
    file = continuous("drawn clip")
    noise = next(node for node in file.nodes if node.op_type == "RandomNormalLike")
    noise.attribute.append(helper.make_attribute("mean", 2.0))

    with pytest.raises(AdoptionRefused, match=r"\(RandomNormalLike\), and not as mean \+ random \* std"):
        adopt(file.data(), Said())


def test_two_spaces_at_once_are_refused() -> None:
    """Continuous and discrete actions of one file are two policies."""
    file = continuous("clip")
    file.add("Identity", "obs_0", out=file.output("discrete_actions", ["batch", 4]))

    with pytest.raises(AdoptionRefused, match="two spaces at once"):
        adopt(file.data(), Said())


def test_the_largest_of_values_is_a_q_network() -> None:
    """A file that takes the largest of plain values is read as one of values."""
    file = ml_agents()
    best = file.add("ArgMax", file.network("obs_0", 4, 3), axis=1, keepdims=1)
    file.add("Identity", best, out=file.output("discrete_actions", ["batch", 1], "int64"))

    meaning = adopt(file.data(), Said()).meaning

    assert (meaning.head, isinstance(meaning.action, Discrete)) == ("q_values", True)


def godot(*, used: bool = False, k: int = 5) -> File:
    """Give a file of Godot RL; its state is a dummy unless it is used."""
    file = File(15)
    obs = file.input("obs", ["batch_size", 4])
    state = file.input("state_ins", ["batch_size", 4] if used else ["batch_size"])
    given = file.add("Add", obs, state) if used else obs
    file.network(given, 4, k, out=file.output("output", ["batch_size", k]))
    carried = file.add("Tanh", given) if used else state
    file.add("Identity", carried, out=file.output("state_outs", ["batch_size", 4] if used else ["batch_size"]))
    return file


def test_godot_has_to_be_told_its_head() -> None:
    """Its output is logits of one algorithm and actions of another: nothing is guessed."""
    with pytest.raises(OptionInvalid, match="say --head with one of logits, q_values, mean"):
        adopt(godot().data(), Said())


def test_factors_of_godot_are_told() -> None:
    """Logits of several choices are split as is said; sizes that do not fill the head are refused."""
    artefact = finished(godot().data(), Said(head="logits", sizes=(3, 2)))

    assert isinstance(artefact.manifest.action, MultiDiscrete)
    with pytest.raises(OptionInvalid, match=r"the head has 5 numbers, expected 3 \+ 3"):
        adopt(godot().data(), Said(head="logits", sizes=(3, 3)))


def test_actions_of_godot_have_the_bounds_that_are_said() -> None:
    """A mean is clipped to what is said, or squashed between it."""
    bounded = Said(head="mean", action_low=(-2.0,), action_high=(2.0,))
    squashed = Said(head="mean", squash="tanh", action_low=(-2.0,), action_high=(2.0,))
    seen = rows(20, 4) * 5

    clipped, tanh = (answered(finished(godot().data(), said), {"obs": seen}) for said in (bounded, squashed))

    assert np.abs(clipped["action"] - np.clip(clipped["mean"], -2, 2)).max() <= 1e-6
    assert np.abs(tanh["action"] - 2 * np.tanh(tanh["mean"])).max() <= 1e-5
    with pytest.raises(OptionInvalid, match="needs a Box action with both bounds"):
        finished(godot().data(), Said(head="mean", squash="tanh"))


def test_a_state_that_is_used_is_memory() -> None:
    """Godot's state is carried where the answer depends on it."""
    artefact = finished(godot(used=True).data(), Said(head="logits"))

    assert [memory.name for memory in artefact.manifest.memory] == ["state"]
    assert artefact.manifest.parity.steps == 100


def test_a_memory_that_is_not_carried_is_found() -> None:
    """The proof plays episodes: a graph that hands its state back unchanged is not written."""
    found = adopt(godot(used=True).data(), Said(head="logits"))
    last = next(node for node in found.model.graph.node if "memory.state.out" in node.output)
    last.input[0] = "memory.state.in"

    with pytest.raises(ParityFailed, match="of 'logits' differ"):
        finish(found.meaning, found.model, found.answers, ABOUT, answers_name=found.answers_name)


def test_playground_acts_between_minus_one_and_one() -> None:
    """mujoco_playground's continuous actions, with a fixed batch of one."""
    artefact = finished(simple(output="continuous_actions", batch=1).data(), Said())

    assert isinstance(artefact.manifest.action, Box)
    assert artefact.manifest.action.low == (-1.0, -1.0, -1.0)


@pytest.mark.parametrize(("given", "output"), [("obs", "actions"), ("actor_obs", "action")])
def test_rsl_gives_means_without_bounds(given: str, output: str) -> None:
    """rsl_rl and Isaac Lab: the mean is carried out; bounds are other people's business."""
    artefact = finished(simple(given, output, batch=1).data(), Said())

    assert artefact.manifest.source.library == "rsl_rl"
    assert isinstance(artefact.manifest.action, Box)
    assert artefact.manifest.action.high == (np.inf,) * 3
    assert (answered(artefact, {"obs": rows(5, 4)})["std"] == 0).all()


def test_what_is_said_comes_before_names() -> None:
    """A file whose names are rsl_rl's and whose output is said to be logits has logits."""
    artefact = finished(simple().data(), Said(head="logits"))

    assert isinstance(artefact.manifest.action, Discrete)


def test_an_input_that_nobody_knows_is_named() -> None:
    """A head that depends on an input of no known meaning is refused until it is called an observation."""
    file = File()
    joined = file.add("Concat", file.input("obs", ["batch", 4]), file.input("time_step", ["batch", 1]), axis=1)
    file.network(joined, 5, 3, out=file.output("actions", ["batch", 3]))

    with pytest.raises(OptionInvalid, match=r"the input 'time_step' is neither .* say --obs obs,time_step"):
        adopt(file.data(), Said(observations=("obs",)))
    assert len(adopt(file.data(), Said(observations=("obs", "time_step"))).meaning.observation.inputs) == 2


def test_names_that_are_not_there_are_refused() -> None:
    """Inputs and outputs that the file does not have are said with those that it has."""
    with pytest.raises(OptionInvalid, match=r"the inputs are \[obs\], expected observations named image"):
        adopt(simple().data(), Said(observations=("image",)))
    with pytest.raises(OptionInvalid, match="--output-name is 'q', expected one of the outputs actions"):
        adopt(simple().data(), Said(outputs=("q",)))


def test_a_mask_of_no_dialect_is_a_mask() -> None:
    """An input called action_mask of truths goes with logits of any file."""
    file = File()
    logits = file.network(file.input("obs", ["batch", 4]), 4, 3)
    mask = file.input("action_mask", ["batch", 3], "bool")
    file.add("Where", mask, logits, file.constant(-1e8), out=file.output("out", ["batch", 3]))
    allowed = masks(30, 3)

    artefact = finished(file.data(), Said(head="logits"))

    assert artefact.manifest.mask
    found = answered(artefact, {"obs": rows(30, 4), "action_mask": allowed})
    assert (found["logits"][~allowed] == -1e8).all()
