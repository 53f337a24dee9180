"""What each architecture's config means with fewer layers."""
