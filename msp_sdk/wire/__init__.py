"""How models cross HTTP."""
