"""The public door: the sender is known before the body is read, and whom it may speak to before Flower sees it.

A request passes these in order; whatever fails ends it, and its connection:

    crowd.py, serving.py     connections: time limits, few per address, those of institutions apart from strangers'
    authentication.py        from the headers: the key is enrolled, and has signed this very request, now and once
    limits.py                the body's announced length, and the time until it is there
    speech.py, records.py    what the request says: in its own name, to the coordinator, about what the node was sent
"""
