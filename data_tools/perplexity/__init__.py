"""Score text by how surprising it is, and cut both tails: boilerplate below, noise above."""
