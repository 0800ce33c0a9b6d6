"""Commands by which people check the baselines themselves: against published figures, a library, and less log."""
