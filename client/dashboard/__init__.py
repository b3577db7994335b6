"""The institution's page, on loopback while `collegium client page` runs: what runs, left, waits, and is spent.

The command serves it, not the daemon: all that is shown lies in the state folder, so that nothing need listen while
nobody looks, and what could be wrong with a page is no part of what handles records.
"""
