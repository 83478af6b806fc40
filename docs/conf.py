"""The documentation site: ``make docs`` builds it, and needs no network."""

from importlib import metadata

project = "lightning_nndebug"
author = "the lightning_nndebug authors"
project_copyright = author
release = version = metadata.version("lightning-nndebug")
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "nndebug"
html_static_path = ["_static"]
exclude_patterns = ["_build"]
