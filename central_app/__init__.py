"""Central: the server side."""
