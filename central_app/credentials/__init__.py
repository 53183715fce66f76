"""Central: credentials."""
