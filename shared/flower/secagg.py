"""What Flower has for secure aggregation: Shamir's shares, and sealing of what one node sends another."""

from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate

__all__ = [
    "combine_shares",
    "create_shares",
    "decrypt",
    "encrypt",
    "share_keys_plaintext_concat",
    "share_keys_plaintext_separate",
]
