"""A released bundle at work: on files and streams of records (`collegium predict`), and behind a door of HTTP."""
