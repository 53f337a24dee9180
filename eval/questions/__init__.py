"""Questions: the sets they come from, the one schema they are brought to, and the domains they are sorted into."""
