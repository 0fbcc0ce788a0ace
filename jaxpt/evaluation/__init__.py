"""What a model can do, measured: an evaluation is a file with its options; bits per byte is the first of them."""
