"""An output that is the action already chosen is refused with its cause, or served as that where it is asked for."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.adopt.adoption import adopt
from export.adopt.command import run
from export.adopt.reading import Said
from export.card import card, card_json
from export.errors import AdoptionRefused, HeadImplausible, OptionInvalid
from export.spec import Box, Discrete, MultiDiscrete
from export.spec.artefact import open_artefact
from export.verify import verify
from tests.export.adopt.files import File, answered, finished, rows, simple
from tests.export.adopt.test_adoption import original

LOGITS, NAMES = Said(head="logits"), ("left", "none", "right")
ACTION = Said(head="action", actions=NAMES)


def chosen(*, keep: bool = False, cast: int = 0, width: int = 3, dims: list[int | str] | None = None) -> File:
    """Give a file that answers with the index of the largest of its logits, which are the tensor ``scores``."""
    file = File()
    scores = file.network(file.input("state", ["batch", 4]), 4, width, out="scores")
    found = file.add("ArgMax", scores, axis=1, keepdims=int(keep))
    dims = dims or (["batch", 1] if keep else ["batch"])
    if cast:
        found = file.add("Cast", found, to=cast)
    file.add("Identity", found, out=file.output("choice", dims, {0: "int64", 1: "float32", 6: "int32"}[cast]))
    return file


def recipe(*, factors: bool = False) -> File:
    """Give what the export recipe of Stable-Baselines3 writes: action, value and log-probability, nothing named."""
    file = File()
    state = file.input("input", ["batch_size", 4])
    parts = []
    for at, size in enumerate((3, 2) if factors else (3,)):
        shares = file.add("Softmax", file.network(state, 4, size, out=f"/action_net_{at}"), axis=1)
        index = file.add("ArgMax", shares, axis=1, keepdims=0)
        parts.append(file.reshaped("Unsqueeze", index, 1) if factors else index)
    width: list[int | str] = ["batch_size", 2] if factors else ["batch_size"]
    if factors:
        file.add("Concat", *parts, axis=1, out=file.output("29", width, "int64"))
    else:
        file.add("Identity", parts[0], out=file.output("29", width, "int64"))
    file.network(state, 4, 1, out=file.output("31", ["batch_size", 1]))
    file.add("Cast", "29", to=1, out=file.output("33", width))
    return file


def sorted_indices() -> File:
    """Give a file whose action is the first of the indices of a sort, as a float."""
    file = File()
    scores = file.network(file.input("state", ["batch", 4]), 4, 3)
    file.add("TopK", scores, file.constant([1], "int64"), out="top", count=2, axis=1)
    file.add("Cast", "top.1", to=1, out=file.output("choice", ["batch", 1]))
    return file


def mapped() -> File:
    """Give a file whose action is looked up in a table of whole numbers."""
    file = File()
    index = file.add("ArgMax", file.network(file.input("state", ["batch", 4]), 4, 3), axis=1, keepdims=1)
    file.add(
        "Gather", file.constant([2, 0, 1], "int64"), index, axis=0, out=file.output("choice", ["batch", 1], "int64")
    )
    return file


def one_number() -> File:
    """Give a file with one real number a row."""
    return simple("state", "choice", k=1)


@pytest.mark.parametrize("head", ["logits", "q_values", "mean", "probabilities"])
@pytest.mark.parametrize(
    ("file", "cause"),
    [
        (chosen(keep=True), r"an arg-max makes it, as int64\[1, 1\]"),
        (chosen(keep=True, cast=1), r"an arg-max makes it, as float32\[1, 1\]"),
        (chosen(), r"an arg-max makes it, as int64\[1\]"),
        (chosen(cast=6), r"an arg-max makes it, as int32\[1\]"),
        (sorted_indices(), r"an arg-max makes it, as float32\[1, 1\]"),
        (mapped(), "its numbers are int64"),
    ],
    ids=["keepdim", "a cast of it", "[B]", "[B] in 32 bits", "first of a sort", "looked up"],
)
def test_a_choice_is_no_head(head: str, file: File, cause: str) -> None:
    """Whatever it is called: one number a row has its largest at 0, for ever."""
    with pytest.raises(
        HeadImplausible, match=rf"'choice' is the action already chosen \({cause}.*or say --head action"
    ):
        adopt(file.data(), Said(head=head))


@pytest.mark.parametrize("head", ["logits", "q_values"])
@pytest.mark.parametrize("dims", [["batch", 1], ["batch"]], ids=["[B, 1]", "[B]"])
def test_a_choice_of_one_is_no_head(head: str, dims: list[int | str]) -> None:
    """Real numbers too, where there is one a row and nothing to compare it with."""
    file = File()
    scores = file.network(file.input("state", ["batch", 4]), 4, 1)
    file.add("Reshape", scores, file.constant([-1] if len(dims) == 1 else [-1, 1], "int64"), out=file.output("v", dims))

    with pytest.raises(HeadImplausible, match=r"it has one number a row, of the shape \[B"):
        adopt(file.data(), Said(head=head))


def test_scores_that_come_one_by_one_are_joined_where_that_is_said() -> None:
    """An output for each action is no factor of one choice: with --factors they are the scores of one choice."""
    file = File()
    state = file.input("state", ["batch", 4])
    for name in ("left", "right"):
        file.network(state, 4, 1, out=file.output(name, ["batch", 1]))
    seen, names = rows(50, 4), ("left", "right")

    with pytest.raises(HeadImplausible, match="'left' is the action already chosen"):
        adopt(file.data(), Said(head="logits", outputs=names))
    found = answered(finished(file.data(), Said(head="logits", outputs=names, sizes=(2,))), {"obs": seen})

    told = np.concatenate(original(file.data()).run(list(names), {"state": seen}), axis=1)
    assert np.abs(found["logits"] - told).max() < 1e-6


def test_indices_of_several_outputs_are_the_choices_of_several_factors() -> None:
    """One output a factor, each an index, in the order in which they are named."""
    file = File()
    state = file.input("state", ["batch", 4])
    for name, size in (("steer", 3), ("brake", 2)):
        file.add("ArgMax", file.network(state, 4, size), axis=1, keepdims=0, out=file.output(name, ["batch"], "int64"))
    seen, names = rows(100, 4), ("brake", "steer")

    found = answered(finished(file.data(), Said(head="action", outputs=names, sizes=(2, 3))), {"obs": seen})

    told = original(file.data()).run(list(names), {"state": seen})
    assert np.array_equal(found["action"], np.stack(told, axis=1))
    assert set(np.unique(found["logits"])) == {0.0, 1.0}


def test_the_tensor_before_it_is_named_and_can_be_adopted() -> None:
    """What the message says works: the scores inside the graph become the head."""
    data, seen = chosen().data(), rows(50, 4)
    with pytest.raises(HeadImplausible, match=r"\(here 'scores': say --output-name scores --head logits\)"):
        adopt(data, LOGITS)

    artefact = finished(data, Said(head="logits", outputs=("scores",)))

    told = original(data, "scores").run(["scores", "choice"], {"state": seen})
    found = answered(artefact, {"obs": seen})
    assert np.abs(found["logits"] - told[0]).max() <= 1e-5
    assert np.array_equal(found["action"], told[1])


def test_the_recipe_of_stable_baselines_is_seen_through() -> None:
    """Of its three outputs the first is the action; the logits before softmax and arg-max are named."""
    for file, names in (
        (recipe(), r"\(here '/action_net_0': say --output-name /action_net_0 --head logits\)"),
        (
            recipe(factors=True),
            r"\(here '/action_net_0', '/action_net_1': say --output-name /action_net_0,/action_net_1 --head logits\)",
        ),
    ):
        with pytest.raises(HeadImplausible, match=names):
            adopt(file.data(), Said(head="logits", outputs=("29",)))

    for factors in (False, True):
        data, outputs = recipe(factors=factors).data(), tuple(f"/action_net_{at}" for at in range(1 + factors))
        found = answered(finished(data, Said(head="logits", outputs=outputs)), {"obs": rows(50, 4)})
        assert np.array_equal(found["action"], original(data).run(["29"], {"input": rows(50, 4)})[0])


def test_a_dialect_of_means_does_not_hide_a_choice() -> None:
    """Where names are those of rsl_rl, an index is not carried out as a joint's angle."""
    file = simple(output="plain")
    del file.outputs[:]
    file.add("ArgMax", "plain", axis=1, keepdims=1, out=file.output("actions", ["batch", 1], "int64"))

    with pytest.raises(HeadImplausible, match="expected the mean of each number"):
        adopt(file.data(), Said())


def test_whole_numbers_as_floats_are_values() -> None:
    """Q-values that are integers exist: they are adopted as they are."""
    file = File()
    found = file.network(file.input("state", ["batch", 4]), 4, 3)
    file.add("Floor", file.add("Mul", found, file.constant(10.0)), out=file.output("q", ["batch", 3]))

    artefact = finished(file.data(), Said(head="q_values"))

    assert artefact.manifest.scores
    told = original(file.data()).run(["q"], {"state": rows(50, 4)})[0]
    assert np.array_equal(answered(artefact, {"obs": rows(50, 4)})["q_values"], told)


@pytest.mark.parametrize(
    "file",
    [chosen(), chosen(keep=True), chosen(keep=True, cast=1), chosen(cast=6), sorted_indices(), mapped()],
    ids=["[B]", "keepdim", "float", "32 bits", "first of a sort", "looked up"],
)
def test_a_choice_is_served_as_a_one_among_zeros(file: File) -> None:
    """Where it is asked for: the action is the file's in every row, and the file says that there are no scores."""
    seen = rows(200, 4) * 3

    artefact = finished(file.data(), ACTION)
    found = answered(artefact, {"obs": seen})

    told = original(file.data()).run(["choice"], {"state": seen})[0].reshape(-1).astype(np.int64)
    assert np.array_equal(found["logits"], np.eye(3)[told])
    assert np.array_equal(found["action"], told)
    manifest = artefact.manifest
    assert (manifest.head, manifest.scores, manifest.parity.action_agreement) == ("logits", False, 1.0)
    assert any("NaN for one that does not exist" in text for text in manifest.inside)
    assert verify(artefact.data).passed


def test_the_card_says_that_there_are_no_scores() -> None:
    """To people and as JSON; what has scores has them in JSON too, and nothing of it in the manifest's own text."""
    without, plain = finished(chosen().data(), ACTION), finished(simple("state", "q").data(), Said(head="q_values"))

    assert "no scores: only the action that was chosen is known" in card(without)
    assert "no scores" not in card(plain)
    assert [json.loads(card_json(one))["scores"] for one in (without, plain)] == [False, True]
    assert '"scores":false' in without.manifest.text()
    assert '"scores"' not in plain.manifest.text()
    assert not open_artefact(without.data).manifest.scores


def test_several_choices_are_a_one_for_each_factor() -> None:
    """Their sizes have to be told, by --factors or by the names of all choices."""
    seen, data = rows(200, 4) * 3, recipe(factors=True).data()
    told = original(data).run(["29"], {"input": seen})[0]

    for said in (
        Said(head="action", outputs=("29",), sizes=(3, 2)),
        Said(head="action", outputs=("29",), actions=("fan=a/b/c", "x=d/e")),
    ):
        artefact = finished(data, said)
        found = answered(artefact, {"obs": seen})
        assert isinstance(artefact.manifest.action, MultiDiscrete)
        assert artefact.manifest.action.sizes == (3, 2)
        assert np.array_equal(found["logits"], np.concatenate([np.eye(3)[told[:, 0]], np.eye(2)[told[:, 1]]], axis=1))
        assert np.array_equal(found["action"], told)


def test_a_one_among_zeros_is_taken_as_the_choice_that_it_is() -> None:
    """A one-hot output is refused as logits and as probabilities, and adopted as an action."""
    file = File()
    index = file.add("ArgMax", file.network(file.input("state", ["batch", 4]), 4, 3), axis=1, keepdims=0)
    values, depth = file.constant([0.0, 1.0]), file.constant([3], "int64")
    file.add("OneHot", index, depth, values, axis=1, out=file.output("hot", ["batch", 3]))
    seen = rows(100, 4) * 3

    for head in ("logits", "probabilities", "q_values"):
        with pytest.raises(HeadImplausible, match="this output is the action already chosen"):
            finished(file.data(), Said(head=head))
    artefact = finished(file.data(), ACTION)

    told = original(file.data()).run(["hot"], {"state": seen})[0]
    assert np.array_equal(answered(artefact, {"obs": seen})["logits"], told)
    assert not artefact.manifest.scores


@pytest.mark.parametrize("said", [ACTION, Said(head="action", sizes=(3,))], ids=["names", "factors"])
def test_an_index_that_does_not_exist_is_no_number(said: Said) -> None:
    """It is never wrapped around to another action: its row is NaN, and others are not touched."""
    file = File()
    state = file.input("state", ["batch", 4])
    index = file.add("ArgMax", file.network(state, 4, 3), axis=1, keepdims=0)
    # Far out, where no probe is, one more than there are.
    first = file.reshaped("Squeeze", file.add("Gather", state, file.constant([0], "int64"), axis=1), 1)
    far = file.add("Cast", file.add("Greater", first, file.constant(1e6)), to=7)
    below = file.add("Cast", file.add("Less", first, file.constant(-1e6)), to=7)
    moved = file.add("Add", index, file.add("Mul", far, file.constant(3, "int64")))
    file.add(
        "Sub", moved, file.add("Mul", below, file.constant(3, "int64")), out=file.output("choice", ["batch"], "int64")
    )
    seen = rows(6, 4)
    seen[1, 0], seen[4, 0] = 1e7, -1e7

    found = answered(finished(file.data(), said), {"obs": seen})["logits"]

    assert np.isnan(found[[1, 4]]).all()
    assert (found[[0, 2, 3, 5]].sum(axis=1) == 1).all()


def test_more_choices_than_were_told_are_refused() -> None:
    """A choice that somebody forgot to name is no choice that nobody makes."""
    with pytest.raises(HeadImplausible, match=r"the file chooses \[2\] for .* expected one of the 2 actions"):
        adopt(chosen().data(), Said(head="action", actions=("left", "right")))


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (Said(head="action"), r"does not say how many actions there are, say --actions A,B,\.\.\. or --factors N,M"),
        (Said(head="action", sizes=(3, 2)), "the output has 1 numbers a row, expected 2, one for each choice"),
        (Said(head="action", actions=NAMES, squash="tanh"), "what was said does not fit the file"),
    ],
)
def test_how_many_there_are_has_to_be_said(said: Said, problem: str) -> None:
    """No file says it, and nothing is guessed."""
    with pytest.raises(OptionInvalid, match=problem):
        adopt(chosen().data(), said)


def test_the_action_of_a_box_is_its_mean() -> None:
    """Real numbers are those of a Box: mean, a std of 0, and no scores."""
    artefact = finished(simple("state", "act").data(), Said(head="action", action_low=(-1.0,), action_high=(1.0,)))
    found = answered(artefact, {"obs": rows(50, 4)})

    told = original(simple("state", "act").data()).run(["act"], {"state": rows(50, 4)})[0]
    assert isinstance(artefact.manifest.action, Box)
    assert (artefact.manifest.head, artefact.manifest.scores) == ("gaussian", False)
    assert np.abs(found["mean"] - told).max() <= 1e-6
    assert not found["std"].any()


def obeying(sense: float = 1.0, *, obeys: bool = True) -> File:
    """Give a file that chooses among what a mask allows with ``sense``."""
    file = File()
    scores = file.network(file.input("state", ["batch", 4]), 4, 3)
    mask = file.input("action_mask", ["batch", 3])
    open_ = file.add("Equal", mask, file.constant(sense if obeys else 7.0))
    left = file.add("Where", open_, scores, file.constant(-1e8)) if obeys else file.add("Add", scores, mask)
    file.add("ArgMax", left, axis=1, keepdims=0, out=file.output("choice", ["batch"], "int64"))
    return file


@pytest.mark.parametrize("sense", [1.0, 0.0])
def test_a_mask_before_the_choice_is_found_by_trying(sense: float) -> None:
    """What alone is allowed is chosen; the choice stays a one, and nothing else stands for what is forbidden."""
    artefact = finished(obeying(sense).data(), ACTION)
    mask = np.random.default_rng(2).random((200, 3)) < 0.5
    mask[:, 1] = True

    found = answered(artefact, {"obs": rows(200, 4) * 3, "action_mask": mask})

    assert artefact.manifest.mask
    assert mask[np.arange(200), np.asarray(found["action"], np.int64)].all()
    assert set(np.unique(found["logits"])) == {0.0, 1.0}


def test_a_mask_that_is_not_obeyed_is_refused() -> None:
    """An input of that name that does not decide what is chosen is no mask."""
    with pytest.raises(AdoptionRefused, match="'action_mask' is no mask of this action"):
        adopt(obeying(obeys=False).data(), ACTION)


def test_the_command_says_and_does_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the refusal to the artefact, with names of the actions."""
    (tmp_path / "theirs.onnx").write_bytes(chosen().data())
    words = [str(tmp_path / "theirs.onnx"), "-o", str(tmp_path / "turn-1.onnx")]
    with pytest.raises(HeadImplausible, match="or say --head action"):
        run([*words, "--head", "logits"])
    assert not (tmp_path / "turn-1.onnx").exists()

    run([*words, "--head", "action", "--actions", ",".join(NAMES)])

    manifest = open_artefact((tmp_path / "turn-1.onnx").read_bytes()).manifest
    assert isinstance(manifest.action, Discrete)
    assert (manifest.action.names, manifest.scores) == (NAMES, False)
    assert "-> logits [3]" in capsys.readouterr().out


def fixed(make: Callable[[], File], batch: int) -> bytes:
    """Give a file with its open batch fixed."""
    model = make().model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return model.SerializeToString()


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_of_choices_is_opened(batch: int) -> None:
    """One number a row on one axis is still one a row."""
    artefact = finished(fixed(chosen, batch), ACTION)

    told = original(chosen().data()).run(["choice"], {"state": rows(20, 4)})[0]
    assert np.array_equal(answered(artefact, {"obs": rows(20, 4)})["action"], told)
    assert onnx.load_model_from_string(artefact.data).graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
