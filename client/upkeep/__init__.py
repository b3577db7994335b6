"""An institution over the years: copies of what it keeps, and the report of what has left it."""
