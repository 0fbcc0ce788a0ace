"""A model at rest: digests of its values."""

from jaxpt.bundles.digest import digest

__all__ = ["digest"]
