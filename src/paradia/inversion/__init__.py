"""Methods that turn the local field into susceptibility."""
