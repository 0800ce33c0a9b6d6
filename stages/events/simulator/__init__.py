"""A simulated log, and what is known of it."""
