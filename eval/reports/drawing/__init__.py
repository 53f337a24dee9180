"""Charts, block maps and the sheets that hold them, as SVG."""
