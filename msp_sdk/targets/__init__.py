"""Merge what is known of hosts into targets."""
