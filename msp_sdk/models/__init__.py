"""Values, and the rules about them that both sides of the wire need. Standard library and attrs only."""
