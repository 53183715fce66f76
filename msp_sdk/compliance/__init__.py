"""Scan hosts."""
