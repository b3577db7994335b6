"""The public door under measurement: the cost of a request, an idle federation, many institutions at once."""
