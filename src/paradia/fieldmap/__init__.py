"""Methods that fit the total field to the echoes."""
