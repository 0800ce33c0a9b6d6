"""How every baseline is run: its command line, its settings, its latency."""
