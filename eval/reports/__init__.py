"""All that people read: the page, Markdown, the terminal, figures."""
