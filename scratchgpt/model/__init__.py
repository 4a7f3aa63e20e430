"""The model: its parameters on one flat array, and the GPT that the sublayers make."""
