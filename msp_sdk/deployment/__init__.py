"""Bring agents onto hosts."""
