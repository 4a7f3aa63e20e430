"""Looking inside: what a file or folder holds, what a model attends to, and what surprises it."""
