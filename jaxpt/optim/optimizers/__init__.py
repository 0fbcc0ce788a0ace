"""The optimizers to choose from: each file is one, its name is the file's."""
