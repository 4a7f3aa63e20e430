"""Occupancy: how many of the threads that a multiprocessor can hold a kernel lets it hold.

More of them hide more of the time that memory takes. The rules are those of CUDA's cuda_occupancy.h, the numbers those
of the table of compute capabilities in its programming guide:
https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/compute-capabilities.html
"""

import math
from typing import NamedTuple

REGISTERS = 64 * 1024
"""Of a multiprocessor and the most of a block: the same everywhere."""

PARTITIONS = 4
"""A multiprocessor's registers lie in so many parts, and a warp's in one of them."""


class Limits(NamedTuple):
    """Of a multiprocessor."""

    threads: int
    blocks: int
    shared: int  # bytes
    reserved: int  # bytes of shared memory that the system takes of each block
    granularity: int  # a block's shared memory is a multiple of this


LIMITS = {
    70: Limits(threads=2048, blocks=32, shared=96 * 1024, reserved=0, granularity=256),
    75: Limits(threads=1024, blocks=16, shared=64 * 1024, reserved=0, granularity=256),
    80: Limits(threads=2048, blocks=32, shared=164 * 1024, reserved=1024, granularity=128),
    86: Limits(threads=1536, blocks=16, shared=100 * 1024, reserved=1024, granularity=128),
    90: Limits(threads=2048, blocks=32, shared=228 * 1024, reserved=1024, granularity=128),
    120: Limits(threads=1536, blocks=24, shared=100 * 1024, reserved=1024, granularity=128),
}
"""By architecture."""


def blocks(architecture: int, threads: int, registers: int, shared: int) -> int:
    """Return how many blocks of a kernel a multiprocessor holds at once.

    The kernel has `threads` a block, `registers` a thread and `shared` bytes a block.
    """
    limits = LIMITS[architecture]
    warps = math.ceil(threads / 32)
    registers_of_warp = _rounded_up(registers * 32, 256)
    if registers_of_warp * _rounded_up(warps, PARTITIONS) > REGISTERS:
        return 0
    resident_warps = REGISTERS // PARTITIONS // registers_of_warp * PARTITIONS
    shared_of_block = _rounded_up(shared + limits.reserved, limits.granularity)
    by_shared = limits.shared // shared_of_block if shared_of_block else limits.blocks
    return min(limits.blocks, limits.threads // 32 // warps, resident_warps // warps, by_shared)


def occupancy(architecture: int, threads: int, registers: int, shared: int) -> float:
    """Return the part of a multiprocessor's threads, from 0 to 1."""
    warps = math.ceil(threads / 32)
    return blocks(architecture, threads, registers, shared) * warps * 32 / LIMITS[architecture].threads


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
