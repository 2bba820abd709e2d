"""How an action is drawn inside the constraints, with the exact probability of what was drawn."""
