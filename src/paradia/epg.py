"""Extended phase graphs: what trains of radio-frequency pulses make of T1 and T2."""
