"""Which windows become preference pairs."""
