"""The `collegium` command."""
