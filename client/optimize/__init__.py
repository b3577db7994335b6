"""`collegium optimize`: a released model made smaller or faster, and measured before and after."""
