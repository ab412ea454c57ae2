"""What the server keeps of conversations, where it is told to, and what becomes of it."""
