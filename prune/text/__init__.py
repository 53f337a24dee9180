"""Documents, and the windows of tokens that are drawn from them."""
