"""Long documents that need their length: whole repositories, linked texts, and a score of what distance adds."""
