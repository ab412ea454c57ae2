"""The HTTP server: what speaks OpenAI's protocol in front of an engine."""
