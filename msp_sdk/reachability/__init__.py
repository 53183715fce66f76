"""Is a host on, which door stands open, and if none: why not."""
