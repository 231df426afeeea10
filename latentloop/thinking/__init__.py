"""How histories come to be thought about: H and T_0, padded or packed, read at the newest position or at all."""
