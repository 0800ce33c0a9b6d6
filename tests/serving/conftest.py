"""What tests of sessions share with those of the model's reading."""

from tests.model.conftest import float32, sharp_model  # noqa: F401
