"""A test of this folder that fails says the seed of what was drawn."""

import pytest

from .chance import SEED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        report.sections.append(("what was drawn", f"MEDREP_TEST_SEED={SEED} draws the same again"))
    return report
