"""The rows of a bill: paired differences by domain, task, needle and way of thinking."""
