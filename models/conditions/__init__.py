"""What a generator is told of the person who is wanted: attributes, or the tokens of a text."""
