"""The language of constraints: terms, their syntax for people, what they mean, and the functions made of them."""
