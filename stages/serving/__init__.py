"""A person's state between predictions."""
