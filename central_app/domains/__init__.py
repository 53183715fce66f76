"""Central: domains."""
