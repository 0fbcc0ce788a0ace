"""The sub-commands of `jaxpt-data`, a module each with `HELP` and `main(argv)`."""
