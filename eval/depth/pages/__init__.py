"""What people read of a map by depth: tables, figures, the page."""
