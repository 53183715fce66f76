"""Central: computers."""
