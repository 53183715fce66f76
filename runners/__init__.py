"""Programs on top of the SDK."""
