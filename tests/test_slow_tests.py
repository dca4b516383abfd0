"""slow_tests.txt names tests that are there: one that was renamed would be run by --quick again, and nobody would notice."""

from medrep import contract

TESTS = contract.REPOSITORY / "tests"


def test_every_line_names_a_file_or_a_test_that_is_there():
    lines = [line for line in (TESTS / "slow_tests.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines and lines == sorted(set(lines), key=lines.index)
    for line in lines:
        file, _, name = line.partition("::")
        path = contract.REPOSITORY / file
        assert path.is_file(), line
        assert not name or f"def {name}(" in path.read_text(), line
