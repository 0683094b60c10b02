"""Iterations: what ended them is told, and which of several goes on."""

from collections.abc import Generator

import pytest

from ionstore.loading.iteration import CurrentIteration, Iteration


def numbers(ended: list[str]) -> Generator[int]:
    try:
        yield from range(3)
    finally:
        ended.append("closed")


class Loader:
    pass


def test_closing_is_the_end_and_ending_is_an_error() -> None:
    ended: list[str] = []
    closed, broken_off = Iteration(numbers(ended)), Iteration(numbers(ended))
    assert next(closed) == next(broken_off) == 0
    closed.close()
    broken_off.end("too late")
    assert ended == ["closed", "closed"]
    assert list(closed) == []
    for _ in range(2):
        with pytest.raises(RuntimeError, match="too late"):
            next(broken_off)


def test_an_iteration_at_its_end_stays_there() -> None:
    iteration = Iteration(numbers([]))
    assert list(iteration) == [0, 1, 2]
    iteration.end("too late")
    assert list(iteration) == []


def test_an_iteration_that_is_let_go_ends() -> None:
    ended: list[str] = []
    iteration = Iteration(numbers(ended))
    next(iteration)
    del iteration
    assert ended == ["closed"]


def test_errors_of_batches_are_left_as_they_are() -> None:
    def fails() -> Generator[int]:
        raise ValueError("damaged")
        yield 0

    with pytest.raises(ValueError, match=r"^damaged$"):
        next(Iteration(fails()))


@pytest.mark.parametrize("is_sibling", [False, True])
def test_the_loop_of_another_loader_hears_that_its_turn_is_over(is_sibling: bool) -> None:
    current, loader, sibling = CurrentIteration(), Loader(), Loader()
    first, second = Iteration(numbers([])), Iteration(numbers([]))
    current.replace(first, loader)
    next(first)
    current.replace(second, sibling if is_sibling else loader)
    if is_sibling:
        with pytest.raises(RuntimeError, match="a sibling ended this iteration"):
            next(first)
    else:
        assert list(first) == []
    assert list(second) == [0, 1, 2]


def test_two_threads_get_a_sentence() -> None:
    """A generator that asks for its own next value is as busy as one in another thread."""

    def busy() -> Generator[int]:
        with pytest.raises(RuntimeError, match="another thread is waiting for a batch"):
            next(iteration)
        with pytest.raises(RuntimeError, match="let one thread iterate it"):
            iteration.close()
        yield 7

    iteration = Iteration(busy())
    assert list(iteration) == [7]
