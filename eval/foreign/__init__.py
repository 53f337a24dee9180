"""Runs that another program made: folders of lm-eval's own output, read as if just asked."""
