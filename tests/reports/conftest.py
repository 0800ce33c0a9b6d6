"""One run that several tests read."""

import pytest

from stages.reports.inputs import read_inputs
from tests.reports.made import NASTY, make_run


@pytest.fixture(scope="session")
def paths(tmp_path_factory):
    """A finished run, one of whose behaviours has a name that wants to be markup."""
    return make_run(tmp_path_factory.mktemp("run"), rename={"Checking the weather": NASTY, "Gaming": "7"})


@pytest.fixture(scope="session")
def inputs(paths):
    return read_inputs(paths)
