"""The tuned models are those that the tests of reading share."""

from tests.model.conftest import *  # noqa: F403
