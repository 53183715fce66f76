"""A Windows estate without Windows."""
