"""Check in at Central, and report."""
