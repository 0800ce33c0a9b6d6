"""A log becomes events: one file per format, what all formats share, and the simulator."""
