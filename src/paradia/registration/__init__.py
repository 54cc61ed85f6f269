"""Registration: bringing images of one head into one space."""
