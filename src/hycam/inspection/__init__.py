"""What an adapter does: how it routes, what it scales, and how it changes the representations."""
