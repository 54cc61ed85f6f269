"""Sources on both sides of a mask, fitted together to the field within it: what total-field methods share."""
