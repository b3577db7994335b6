"""Aggregation methods: one file each, `init` and `apply` over plain arrays, no Flower import."""
