"""Take a candidate to all users step by step, or back: what is observed, what is judged, what is done."""
