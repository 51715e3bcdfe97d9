"""XXH3-64 in plain Python, written from the algorithm's description, with a 192-byte secret.

Independent of the C library on purpose: verify_stream.py must not inherit its mistakes. Checked
against vectors that the C library made (golden/xxh3_vectors.txt).
"""

import struct

_MASK = (1 << 64) - 1
_P32_1, _P32_2, _P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
_P64_1, _P64_2, _P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P64_4, _P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MIX_1, _MIX_2 = 0x165667919E3779F9, 0x9FB21C651E98DF25

SECRET_BYTES = 192
_STRIPE = 64
_STRIPES_IN_BLOCK = (SECRET_BYTES - _STRIPE) // 8
_BLOCK = _STRIPE * _STRIPES_IN_BLOCK

# The algorithm's own secret, for what is hashed without a key.
DEFAULT_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")


def _u32(data, at):
    return struct.unpack_from("<I", data, at)[0]


def _u64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


def _swap64(value):
    return int.from_bytes(value.to_bytes(8, "little"), "big")


def _rotate(value, bits):
    return ((value << bits) | (value >> (64 - bits))) & _MASK


def _fold(a, b):
    product = a * b
    return (product & _MASK) ^ (product >> 64)


def _avalanche(h):
    h ^= h >> 37
    h = (h * _MIX_1) & _MASK
    return h ^ (h >> 32)


def _avalanche_xxh64(h):
    h ^= h >> 33
    h = (h * _P64_2) & _MASK
    h ^= h >> 29
    h = (h * _P64_3) & _MASK
    return h ^ (h >> 32)


def _mix16(data, at, secret, key):
    return _fold(_u64(data, at) ^ _u64(secret, key), _u64(data, at + 8) ^ _u64(secret, key + 8))


def _up_to_16(data, secret):
    n = len(data)
    if n > 8:
        low = _u64(data, 0) ^ _u64(secret, 24) ^ _u64(secret, 32)
        high = _u64(data, n - 8) ^ _u64(secret, 40) ^ _u64(secret, 48)
        return _avalanche((n + _swap64(low) + high + _fold(low, high)) & _MASK)
    if n >= 4:
        h = (_u32(data, n - 4) + (_u32(data, 0) << 32)) ^ _u64(secret, 8) ^ _u64(secret, 16)
        h ^= _rotate(h, 49) ^ _rotate(h, 24)
        h = (h * _MIX_2) & _MASK
        h ^= (h >> 35) + n
        h = (h * _MIX_2) & _MASK
        return h ^ (h >> 28)
    if n > 0:
        combined = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        return _avalanche_xxh64(combined ^ _u32(secret, 0) ^ _u32(secret, 4))
    return _avalanche_xxh64(_u64(secret, 56) ^ _u64(secret, 64))


def _up_to_128(data, secret):
    n = len(data)
    acc = n * _P64_1
    for i in range((n - 1) // 32, -1, -1):
        acc += _mix16(data, 16 * i, secret, 32 * i)
        acc += _mix16(data, n - 16 * (i + 1), secret, 32 * i + 16)
    return _avalanche(acc & _MASK)


def _up_to_240(data, secret):
    n = len(data)
    acc = n * _P64_1 + sum(_mix16(data, 16 * i, secret, 16 * i) for i in range(8))
    acc = _avalanche(acc & _MASK)
    acc += sum(_mix16(data, 16 * i, secret, 16 * (i - 8) + 3) for i in range(8, n // 16))
    acc += _mix16(data, n - 16, secret, 136 - 17)
    return _avalanche(acc & _MASK)


def _accumulate(acc, values, keys):
    for i in range(8):
        keyed = values[i] ^ keys[i]
        acc[i ^ 1] += values[i]
        acc[i] = (acc[i] + (keyed & 0xFFFFFFFF) * (keyed >> 32)) & _MASK


def _long(data, secret):
    acc = [_P32_3, _P64_1, _P64_2, _P64_3, _P64_4, _P32_2, _P64_5, _P32_1]
    keys = [struct.unpack_from("<8Q", secret, 8 * i) for i in range(_STRIPES_IN_BLOCK)]
    scramble = struct.unpack_from("<8Q", secret, SECRET_BYTES - _STRIPE)
    stripes = (len(data) - 1) // _STRIPE
    for stripe in range(stripes):
        _accumulate(acc, struct.unpack_from("<8Q", data, stripe * _STRIPE),
                    keys[stripe % _STRIPES_IN_BLOCK])
        if (stripe + 1) % _STRIPES_IN_BLOCK == 0:
            for i in range(8):
                value = acc[i] & _MASK
                acc[i] = ((value ^ (value >> 47) ^ scramble[i]) * _P32_1) & _MASK
    _accumulate(acc, struct.unpack_from("<8Q", data, len(data) - _STRIPE),
                struct.unpack_from("<8Q", secret, SECRET_BYTES - _STRIPE - 7))
    h = len(data) * _P64_1
    for i in range(0, 8, 2):
        h += _fold((acc[i] & _MASK) ^ _u64(secret, 11 + 8 * i),
                   (acc[i + 1] & _MASK) ^ _u64(secret, 19 + 8 * i))
    return _avalanche(h & _MASK)


def xxh3_64(data, secret=DEFAULT_SECRET):
    """The hash of `data` (bytes), keyed by `secret` (192 bytes)."""
    if len(secret) != SECRET_BYTES:
        raise ValueError("the secret must have 192 bytes")
    if len(data) <= 16:
        return _up_to_16(data, secret)
    if len(data) <= 128:
        return _up_to_128(data, secret)
    if len(data) <= 240:
        return _up_to_240(data, secret)
    return _long(data, secret)
