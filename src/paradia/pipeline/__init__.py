"""Steps, protocols and runs."""
