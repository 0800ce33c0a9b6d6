"""What a person did before, counted."""
