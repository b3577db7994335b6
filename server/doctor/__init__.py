"""`collegium server doctor`: can this coordinator lead a run, and what would the run take?"""
