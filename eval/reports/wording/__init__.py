"""How results are put into words and cells, alike on the page, in Markdown and in the terminal."""
