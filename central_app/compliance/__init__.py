"""Central: compliance."""
