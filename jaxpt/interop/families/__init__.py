"""The families of foreign models: a file each, named by its `model_type`, that holds `FAMILY`."""
