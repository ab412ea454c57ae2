"""How far an adapter's choice of prompt and its replies move when its input, or its scores, are disturbed."""
