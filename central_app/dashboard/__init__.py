"""Central: dashboard."""
