"""What baselines made of a language model share."""
