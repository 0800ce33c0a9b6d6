"""Counting is tested on the log that the other baselines are tested on."""

from tests.baselines.conftest import *  # noqa: F403
