"""The commands of `jaxpt-data`, one module each: `HELP` and `main(argv)`."""
