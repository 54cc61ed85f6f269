"""Methods that turn the total field into susceptibility in one step."""
