"""Lists of example ids: each is stored once, parts of a long one as bits."""

import pytest

from evomerge.study.example_lists import ExampleLists

WHOLE = tuple(f"{n:016x}" for n in range(40))


@pytest.mark.parametrize(
    ("ids", "as_bits"),
    [
        (WHOLE[3:30:2], True),
        (WHOLE[::-1], False),  # the order counts
        ((*WHOLE[:5], "other"), False),
        ((), False),
    ],
)
def test_a_part_is_stored_as_bits_over_the_longest_list(ids: tuple[str, ...], as_bits: bool) -> None:
    lists = ExampleLists()
    for known in (WHOLE[:2], WHOLE):
        lists.add(lists.to_dict("math", known))
    data = lists.to_dict("math", ids)
    assert ("rows" in data, "ids" in data) == (as_bits, not as_bits)
    number = len(lists)
    lists.add(data)
    assert (lists[number], lists.number("math", ids)) == (ids, number)
    assert lists.number("chat", ids) is None


def test_few_of_very_many_examples_are_stored_by_their_ids() -> None:
    lists = ExampleLists()
    many = tuple(map(str, range(1000)))
    lists.add(lists.to_dict("math", many))
    assert "ids" in lists.to_dict("math", many[:9])
    assert "rows" in lists.to_dict("math", many[:10])
