"""Provider profiles as values: what a type of provider is, read, written and checked."""
