"""Functions with interchangeable implementations: attention, cross-entropy."""
