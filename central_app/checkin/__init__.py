"""Central: checkin."""
