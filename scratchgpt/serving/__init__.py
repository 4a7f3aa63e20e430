"""A trained model behind HTTP, as OpenAI's clients know it."""
