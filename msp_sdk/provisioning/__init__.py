"""Claim a provision code."""
