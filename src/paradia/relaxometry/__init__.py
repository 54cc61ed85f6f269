"""Methods that fit relaxation rates to the magnitudes."""
