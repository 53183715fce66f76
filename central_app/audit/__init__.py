"""Central: audit."""
