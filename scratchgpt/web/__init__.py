"""The page of `scratchgpt web`: data, recipe, training, text and measurements in a browser."""
