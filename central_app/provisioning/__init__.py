"""Central: provisioning."""
