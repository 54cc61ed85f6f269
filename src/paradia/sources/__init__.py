"""Sources inside and outside a mask: the fit of both sides to a field, and what stages share that read sources off it."""
