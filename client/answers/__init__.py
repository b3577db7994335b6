"""A released bundle applied: what is given becomes answers, and `collegium predict` does so with files and streams."""
