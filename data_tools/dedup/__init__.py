"""Find duplicates: signatures, candidates, verification, and the global steps on an engine."""
