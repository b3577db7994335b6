"""`collegium client doctor`: can this site take part, and what would a run cost it?"""
