"""What each of the two commands measures, one file per process: `measure(sizes, rows)`."""
