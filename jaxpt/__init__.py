"""jaxpt: a language model of exactly the shape you want, out of one that exists, pretrained with few tokens."""
