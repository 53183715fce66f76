"""Central's tables, connections and migrations."""
