"""The page of faults says what the tests provoke: complete and current."""

from tests.faults import GROUPS, ROWS, TABLE, page, provoked


def test_every_fault_is_provoked_or_has_a_reason() -> None:
    assert list(ROWS) == [f"F{number}" for number in range(1, 45)]
    assert sorted(number for group in GROUPS.values() for number in group) == sorted(ROWS)
    tests = list(provoked())
    assert {each.row for each in tests} <= ROWS.keys()
    assert {number for number, row in ROWS.items() if not row.limits} <= {each.row for each in tests}
    assert all(each.test.startswith("test_") and each.how and each.seen for each in tests)
    leaning = [each for each in tests if each.how.startswith("the same") or each.seen == "the same"]
    assert leaning == [], "rows are sorted: none may lean on the one above"


def test_the_page_is_current() -> None:
    assert TABLE.read_text(encoding="utf-8") == page(), "run `python -m tests.faults`"
