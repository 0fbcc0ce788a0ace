"""Many runs of one config that differ in some keys: what they are, how they run, which of them is best."""
