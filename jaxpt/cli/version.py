"""The version, stated here alone: setup.py reads it too."""

VERSION = "0.1.0"
