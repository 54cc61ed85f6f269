"""Methods that remove the field of sources outside the mask."""
