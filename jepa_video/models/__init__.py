"""Networks and nothing else: no losses, no trainer."""
