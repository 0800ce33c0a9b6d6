"""What of DVC is changed for this project."""
