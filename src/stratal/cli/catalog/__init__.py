"""``stratal models catalog|pull|deploy|try|bench``: pre-trained models of the catalogue."""
