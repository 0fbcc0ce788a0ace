"""A model at rest: written and read slice by slice, with digests and lineage."""

from jaxpt.bundles.digest import digest
from jaxpt.bundles.reader import Bundle, open_bundle
from jaxpt.bundles.writer import BundleWriter, save_bundle

__all__ = ["Bundle", "BundleWriter", "digest", "open_bundle", "save_bundle"]
