"""A log becomes events: one file per source, what every source shares, the simulator, and the windows."""
