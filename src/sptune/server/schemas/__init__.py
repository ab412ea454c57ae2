"""The bodies of requests and answers, as OpenAI has them."""
