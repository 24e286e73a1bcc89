"""
What arrives by the Xet protocol, read: a xorb holds chunks, a shard says which of them make up a file.

Formats: https://huggingface.co/docs/xet/xorb and https://huggingface.co/docs/xet/shard. Chunks must not be compressed.
"""

import hashlib
import struct

ENTRY = 48  # bytes of a record of a shard
WITH_VERIFICATION, WITH_METADATA = 1 << 31, 1 << 30
END = b"\xff" * 32


def chunks_of(xorb: bytes) -> list[bytes]:
    chunks, at = [], 0
    while at < len(xorb):
        version, packed, scheme = xorb[at], int.from_bytes(xorb[at + 1 : at + 4], "little"), xorb[at + 4]
        assert (version, scheme) == (0, 0), "HF_XET_DATA_XORB_COMPRESSION_POLICY=none is for clients of this Hub"
        chunks.append(xorb[at + 8 : at + 8 + packed])
        at += 8 + packed
    assert at == len(xorb)
    return chunks


def files_of(shard: bytes, xorbs: dict[str, list[bytes]]) -> list[bytes]:
    """The files of a shard, whole; each must be what its sha256 there says."""
    files, at = [], ENTRY  # after the header
    while (header := shard[at : at + ENTRY])[:32] != END:
        flags, segments = struct.unpack_from("<II", header, 32)
        content = b""
        for _ in range(segments):
            at += ENTRY
            size, first, last = struct.unpack_from("<III", shard, at + 36)
            segment = b"".join(xorbs[name_of(shard[at : at + 32])][first:last])
            assert len(segment) == size
            content += segment
        at += ENTRY * segments * bool(flags & WITH_VERIFICATION)
        assert flags & WITH_METADATA
        at += ENTRY
        assert hashlib.sha256(content).hexdigest() == name_of(shard[at : at + 32])
        files.append(content)
        at += ENTRY
    return files


def name_of(digest: bytes) -> str:
    """In Xet's way of writing it: as four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))
