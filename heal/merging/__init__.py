"""An adapter and its base made one."""
