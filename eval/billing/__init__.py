"""From samples to numbers with intervals; no model, no screen."""
