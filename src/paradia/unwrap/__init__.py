"""Methods that take the 2π jumps out of the phase."""
