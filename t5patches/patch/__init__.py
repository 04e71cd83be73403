"""All of an update of someone's own model, by one command."""
