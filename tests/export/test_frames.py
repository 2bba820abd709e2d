"""How a stack is cut into frames: the library's rule where one reading is left, and a refusal where there are two."""

from typing import Any

import pytest
from torch import nn

from export.errors import OptionInvalid
from export.frames import Axes, Padding, axes_of, cuts_of, images_of, key_of, one_frame
from export.spec import Array, Dict, Discrete, Entry, Field, Fields
from export.trained import TrainedPolicy


def policy(*shape: int, dtype: Any = "float32", images: tuple[str, ...] | None = None, **bounds: Any) -> TrainedPolicy:
    """Give a policy that takes one array."""
    space = Array(shape=shape, dtype=dtype, **bounds)
    return TrainedPolicy(module=nn.Identity(), observation=space, action=Discrete(names=("a", "b")), images=images)


@pytest.mark.parametrize(
    ("taken", "frames", "axis", "frame"),
    [
        (policy(20), 4, 0, (5,)),
        (policy(3, 20), 4, 1, (3, 5)),
        (policy(2, 3, 2, 15), 3, 3, (2, 3, 2, 5)),
        (policy(85, 85, 4), 4, 2, (85, 85, 1)),
        (policy(3, 84, 84), 4, 2, (3, 84, 21)),
        (policy(4, 84, 84, dtype="uint8"), 4, 0, (1, 84, 84)),
        (policy(12, 84, 84, dtype="uint8", low=0, high=255), 4, 0, (3, 84, 84)),
        (policy(84, 84, 4, dtype="uint8"), 4, 2, (84, 84, 1)),
        (policy(84, 84, 12, dtype="uint8"), 4, 2, (84, 84, 3)),
        (policy(3, 84, 84, dtype="uint8", high=1), 4, 2, (3, 84, 21)),
        (policy(3, 84, 84, dtype="uint8", images=()), 4, 2, (3, 84, 21)),
    ],
)
def test_the_one_reading_that_is_left_is_taken(
    taken: TrainedPolicy, frames: int, axis: int, frame: tuple[int, ...]
) -> None:
    """Images on their channels, first or last as they are, everything else on the last axis."""
    cut = cuts_of(taken, frames)["obs"]

    assert (cut.axis, cut.frame, cut.length, cut.by_rule) == (axis, frame, frame[axis], True)


@pytest.mark.parametrize(
    ("taken", "frames", "first", "last"),
    [
        (policy(4, 20), 4, "[1, 20]", "[4, 5]"),
        (policy(5, 20), 5, "[1, 20]", "[5, 4]"),
        (policy(4, 84, 84), 4, "[1, 84, 84]", "[4, 84, 21]"),
        (policy(84, 84, 4), 4, "[21, 84, 4]", "[84, 84, 1]"),
        (policy(36, 40, 36, dtype="uint8"), 4, "[9, 40, 36]", "[36, 40, 9]"),
        (policy(4, 84, 84, dtype="uint8", images=()), 4, "[1, 84, 84]", "[4, 84, 21]"),
        (policy(4, 3, 3, 8), 4, "[1, 3, 3, 8]", "[4, 3, 3, 2]"),
    ],
)
def test_a_stack_that_reads_in_two_ways_is_refused_until_it_is_told(
    taken: TrainedPolicy, frames: int, first: str, last: str
) -> None:
    """The refusal names both frames and the option, and either option is taken."""
    with pytest.raises(OptionInvalid, match="in two ways") as refused:
        cuts_of(taken, frames)

    assert f"say --frame-axis first for frames {first}" in str(refused.value)
    assert f"say --frame-axis last for frames {last}" in str(refused.value)
    assert str(list(cuts_of(taken, frames, axes={"": "first"})["obs"].frame)) == first
    assert str(list(cuts_of(taken, frames, axes={"": "last"})["obs"].frame)) == last


@pytest.mark.parametrize(
    ("taken", "frames", "axes", "said"),
    [
        (policy(10), 3, {}, r"divides obs \[10\], which is 10 \(2, 5, 10\)"),
        (policy(10), 1, {}, r"--frame-stack is 1, expected a number from 2 that divides obs \[10\]"),
        (policy(7), 0, {}, r"which is 7 \(7\)"),
        (policy(5, 18), 4, {}, r"the last axis of obs \[5, 18\], which is 18 \(2, 3, 6, 9, 18\)$"),
        (policy(20, 3), 4, {}, r"which is 3 \(3\); say --frame-axis first for frames \[5, 3\] on the first axis"),
        (policy(4, 21), 3, {"": "first"}, r"the first axis of obs \[4, 21\], which is 4 \(2, 4\)$"),
        (policy(3, 84, 84, dtype="uint8"), 5, {}, r"the first axis of obs \[3, 84, 84\], which is 3 \(3\)$"),
        (policy(8, 1, 7, dtype="uint8"), 4, {}, r"which is 7 \(7\); say --frame-axis first for frames \[2, 1, 7\]"),
        (policy(5, 1), 2, {}, r"which is 1 \(none\)"),
        (policy(720), 7, {}, r"\(2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 16, 18, \.\.\.\)"),
    ],
)
def test_a_number_that_does_not_divide_the_axis_is_refused(
    taken: TrainedPolicy, frames: int, axes: Axes, said: str
) -> None:
    """The refusal names the axis, its length and what would fit."""
    with pytest.raises(OptionInvalid, match=said):
        cuts_of(taken, frames, axes=axes)


@pytest.mark.parametrize(("padding", "frame"), [("first", (1, 21)), ("zero", None)])
def test_gymnasium_stacks_on_a_new_first_axis(padding: Padding, frame: tuple[int, ...] | None) -> None:
    """Its padding says that it was Gymnasium's stack; SB3's has no such one by itself."""
    if frame is None:
        with pytest.raises(OptionInvalid, match="say --frame-axis first"):
            cuts_of(policy(4, 21), 4, padding)
    else:
        assert cuts_of(policy(4, 21), 4, padding)["obs"].frame == frame


def test_entries_of_a_dict_are_cut_each_on_its_own_axis() -> None:
    """By the rule, or by the axis that is told for all or for one of them."""
    parts = Dict(
        entries=(
            Entry(key="camera", space=Array(shape=(4, 36, 40), dtype="uint8")),
            Entry(key="grid.a", space=Array(shape=(4, 20))),
            Entry(key="speed", space=Fields(fields=tuple(Field(name=f"x{at}") for at in range(8)))),
        )
    )
    taken = TrainedPolicy(module=nn.Identity(), observation=parts, action=Discrete(names=("a", "b")))

    with pytest.raises(OptionInvalid, match=r"fits obs\.grid\.a \[4, 20\] in two ways"):
        cuts_of(taken, 4)
    with pytest.raises(
        OptionInvalid, match=r"--frame-axis names wheel, expected keys of the observation: camera, grid\.a"
    ):
        cuts_of(taken, 4, axes={"wheel": "last"})
    told = cuts_of(taken, 4, axes={"grid.a": "last"})
    assert {name: cut.frame for name, cut in told.items()} == {
        "obs.camera": (1, 36, 40),
        "obs.grid.a": (4, 5),
        "obs.speed": (2,),
    }
    assert cuts_of(taken, 4, axes={"": "last", "grid.a": "first"})["obs.camera"].frame == (4, 36, 10)
    assert images_of(taken) == ("obs.camera",)


def test_statistics_of_one_frame_show_the_axis() -> None:
    """They have the frame's shape, which one axis alone gives; one that no axis gives is refused."""
    for frame, axis in (((4, 5), 1), ((1, 20), 0)):
        cut = cuts_of(policy(4, 20), 4, known={"obs": frame})["obs"]
        assert (cut.axis, cut.by_rule) == (axis, False)

    with pytest.raises(OptionInvalid, match=r"are of frames \[2, 10\], of which 4 do not make \[4, 20\]"):
        cuts_of(policy(4, 20), 4, known={"obs": (2, 10)})
    with pytest.raises(OptionInvalid, match=r"of which 4 on the first axis do not make \[4, 20\]"):
        cuts_of(policy(4, 20), 4, axes={"": "first"}, known={"obs": (4, 5)})
    assert one_frame({"": 20}, policy(4, 20), 4)
    assert not one_frame({"": 80}, policy(4, 20), 4)
    assert not one_frame({"x": 20}, policy(4, 20), 4)
    assert not one_frame({}, policy(4, 20), 4)


def test_the_option_is_an_axis_for_all_or_by_key() -> None:
    """Anything else is refused, and so is a key that stands twice."""
    assert axes_of(["last"]) == {"": "last"}
    assert axes_of(["a=first", "b.c=last"]) == {"a": "first", "b.c": "last"}
    assert (key_of("obs"), key_of("obs.b.c")) == ("", "b.c")

    for wrong in (["middle"], ["a=1"], ["first", "last"], [""]):
        with pytest.raises(OptionInvalid, match="expected first or last, or KEY=first"):
            axes_of(wrong)
