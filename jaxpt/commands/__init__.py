"""The sub-commands of `jaxpt`, one module each: `main(argv) -> int` and a line `HELP`."""
