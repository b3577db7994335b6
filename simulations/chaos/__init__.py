"""Faults of a real deployment: what dies or freezes, networks that are cut, clocks that jump, disks that are full."""
