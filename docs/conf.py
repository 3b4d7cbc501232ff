"""Sphinx's settings for `make docs`; scripts/docs_site.py makes the pages. Nothing is fetched, now or by readers."""

import lskd

project = "lskd"
author = "the lskd authors"
copyright = author
release = version = lskd.__version__

extensions = ["myst_parser"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a docstring's page goes from the module to its functions

smartquotes = False  # of --results they make –results
html_theme = "furo"
html_use_index = False
html_title = f"lskd {release}"
html_show_sourcelink = False
html_copy_source = False
highlight_language = "none"  # of fences that name no language
pygments_style = "friendly"
pygments_dark_style = "monokai"
