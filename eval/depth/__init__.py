"""Knowledge and reasoning by depth: what removing each block of layers costs, by domain."""
