"""The house measured and drawn from its code: who imports whom, how long functions are, where types say nothing."""
