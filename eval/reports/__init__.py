"""The report: stored results as one page of HTML. It shows the statistics they hold and computes none of its own."""
