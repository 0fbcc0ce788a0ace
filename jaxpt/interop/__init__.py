"""Hugging Face in and out, one small mapping per family."""

from jaxpt.interop.exporting import export_bundle, export_form
from jaxpt.interop.find_family import FAMILIES
from jaxpt.interop.importing import import_bundle, load_hf, read_hf_config

__all__ = ["FAMILIES", "export_bundle", "export_form", "import_bundle", "load_hf", "read_hf_config"]
