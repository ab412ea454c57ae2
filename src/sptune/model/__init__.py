"""The frozen base model, the soft prompts, the retriever, and what they do together."""
