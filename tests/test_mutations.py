"""benchmarks/mutations.py fits the code: it is run outside the tests, which take seconds for each of its rows."""

import importlib.util
import pathlib

import pytest

PATH = pathlib.Path(__file__).parents[1] / "benchmarks" / "mutations.py"
SPEC = importlib.util.spec_from_file_location("mutations", PATH)
mutations = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(mutations)


def test_every_row_changes_one_line_that_is_there_once_and_names_tests_that_exist():
    for mutation in mutations.MUTATIONS:
        before, after = (mutations.ROOT / mutation.file).read_text(), mutations.changed_text(mutation)
        pairs = zip(before.splitlines(), after.splitlines(), strict=True)
        assert [new.strip() for old, new in pairs if old != new] == [mutation.replacement]
        for test in mutation.tests:
            path, _, name = test.partition("::")
            assert not name or f"def {name}(" in (mutations.ROOT / path).read_text()


def test_a_line_that_is_not_there_is_refused():
    with pytest.raises(SystemExit, match="expected exactly once, found 0 times: x = 1\nUpdate the row"):
        mutations.changed_text(mutations.MUTATIONS[0]._replace(line="x = 1"))


def test_rows_are_selected_by_numbers_and_ranges():
    assert mutations.selected("3,10-12") == [3, 10, 11, 12]
    assert mutations.selected("") == list(range(1, len(mutations.MUTATIONS) + 1))
