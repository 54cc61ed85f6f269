"""Methods that weight the magnitude by phase."""
