"""What small sequence models share."""
