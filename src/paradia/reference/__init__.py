"""Methods that set the zero of susceptibility."""
