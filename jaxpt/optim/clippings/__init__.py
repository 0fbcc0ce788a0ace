"""Ways of clipping that a config can name: one file each."""
