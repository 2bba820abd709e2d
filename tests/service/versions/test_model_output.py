"""What a run answered: outputs by their places, rows of it, and several runs as one."""

import numpy as np

from service.versions.engine import ModelOutput


def told(rows: int) -> ModelOutput:
    """An answer with everything in it, whose numbers count up."""
    head = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    return ModelOutput(
        head, np.arange(rows, dtype=np.float32), (np.arange(rows * 6).reshape(rows, 2, 3), np.ones((rows, 1)))
    )


def test_outputs_are_the_head_the_spread_and_the_memory() -> None:
    """In the order of the manifest's outputs; mean and std stand one after the other."""
    mean, std, spread, memory = np.zeros((4, 2)), np.ones((4, 2)), np.full(4, 0.5), np.full((4, 3), 7.0)
    whole = ModelOutput.of([mean, std, spread, memory], 2, True)
    plain = ModelOutput.of([mean, memory], 1, False)

    assert whole.head.tolist() == [[0, 0, 1, 1]] * 4
    assert whole.spread is spread
    assert whole.memory == (memory,)
    assert (plain.head is mean, plain.spread, plain.memory) == (True, None, (memory,))


def test_some_rows_of_an_answer_are_an_answer() -> None:
    """Every part of it is picked alike, in the order that is asked for."""
    part = told(4).rows([3, 1])

    assert part.head.tolist() == [[6, 7], [2, 3]]
    assert part.spread is not None
    assert part.spread.tolist() == [3, 1]
    assert [one.shape for one in part.memory] == [(2, 2, 3), (2, 1)]
    assert part.memory[0][0].tolist() == [[18, 19, 20], [21, 22, 23]]
    assert ModelOutput(np.zeros((2, 2), np.float32)).rows([1]).spread is None


def test_answers_of_several_runs_are_one() -> None:
    """One after another, every part of it."""
    whole = told(5)
    joined = ModelOutput.joined([whole.rows([0, 1]), whole.rows([2, 3]), whole.rows([4])])
    plain = ModelOutput.joined([ModelOutput(np.zeros((2, 2), np.float32)), ModelOutput(np.ones((1, 2), np.float32))])

    assert joined.spread is not None
    assert np.array_equal(joined.head, whole.head)
    assert joined.spread.tolist() == [0, 1, 2, 3, 4]
    assert all(np.array_equal(a, b) for a, b in zip(joined.memory, whole.memory, strict=True))
    assert (len(plain.head), plain.spread, plain.memory) == (3, None, ())
