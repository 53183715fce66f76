"""Central: partners."""
