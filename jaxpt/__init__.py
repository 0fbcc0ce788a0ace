"""jaxpt: build a language model of exactly the shape you want out of one that exists, and pretrain it with few tokens."""
