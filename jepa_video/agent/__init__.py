"""The other modules of the blueprint: what a world model is used with in order to act."""
