"""Keys of nodes, as Flower writes and uses them."""

from flwr.supercore.primitives.asymmetric import (
    bytes_to_public_key,
    generate_key_pairs,
    public_key_to_bytes,
    verify_signature,
)

__all__ = ["bytes_to_public_key", "generate_key_pairs", "public_key_to_bytes", "verify_signature"]
