"""The code that runs on the GPU: fill memory with a pattern, and count what is not as it was filled.

Word ``i`` of a block is ``(mix(i, seed) & mask) ^ flip``: with a full mask every word depends on its address,
so that a fault in addressing is found as well as a bit that sticks; with an empty one all words are ``flip``.
The text is PTX for the oldest GPUs of interest, which the driver compiles for whatever GPU is there.
"""

from __future__ import annotations

__all__ = ["FULL_MASK", "PASSES", "PTX", "pattern"]

FULL_MASK = 0xFFFFFFFF
# (seed, mask, flip): two by address and their inverse, then alternating bits.
PASSES: tuple[tuple[int, int, int], ...] = (
    (0x243F6A88, FULL_MASK, 0),
    (0x243F6A88, FULL_MASK, FULL_MASK),
    (0, 0, 0x55555555),
    (0, 0, 0xAAAAAAAA),
)
_FIRST = 2654435761
_SECOND = 2246822519


def pattern(index: int, *, seed: int, mask: int, flip: int) -> int:
    """The word at ``index``, as the code below computes it."""
    word = ((index & FULL_MASK) * _FIRST + seed) & FULL_MASK
    word ^= index >> 32
    word ^= word >> 15
    return (((word * _SECOND) & FULL_MASK) & mask) ^ flip


_WORD = f"""
    cvt.u32.u64 %r7, %rd3;
    shr.u64 %rd6, %rd3, 32;
    cvt.u32.u64 %r8, %rd6;
    mad.lo.u32 %r9, %r7, {_FIRST}, %r1;
    xor.b32 %r9, %r9, %r8;
    shr.u32 %r10, %r9, 15;
    xor.b32 %r9, %r9, %r10;
    mul.lo.u32 %r9, %r9, {_SECOND};
    and.b32 %r9, %r9, %r11;
    xor.b32 %r9, %r9, %r2;
    shl.b64 %rd7, %rd3, 2;
    add.u64 %rd8, %rd1, %rd7;
"""

_FILL = "    st.global.u32 [%rd8], %r9;\n"

# Two counters: words that differ, and the lowest index of one.
_VERIFY = """\
    ld.volatile.global.u32 %r12, [%rd8];
    setp.eq.u32 %p2, %r12, %r9;
    @%p2 bra SAME;
    atom.global.add.u64 %rd10, [%rd9], 1;
    atom.global.min.u64 %rd10, [%rd9+8], %rd3;
SAME:
"""


def _entry(name: str, body: str) -> str:
    return f"""
.visible .entry {name}(
    .param .u64 place, .param .u64 words, .param .u32 seed, .param .u32 mask, .param .u32 flip,
    .param .u64 found
)
{{
    .reg .pred %p<3>;
    .reg .b32 %r<13>;
    .reg .b64 %rd<11>;
    ld.param.u64 %rd1, [place];
    cvta.to.global.u64 %rd1, %rd1;
    ld.param.u64 %rd2, [words];
    ld.param.u32 %r1, [seed];
    ld.param.u32 %r11, [mask];
    ld.param.u32 %r2, [flip];
    ld.param.u64 %rd9, [found];
    cvta.to.global.u64 %rd9, %rd9;
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mov.u32 %r6, %nctaid.x;
    mul.wide.u32 %rd3, %r3, %r4;
    cvt.u64.u32 %rd4, %r5;
    add.u64 %rd3, %rd3, %rd4;
    mul.wide.u32 %rd5, %r6, %r4;
AGAIN:
    setp.ge.u64 %p1, %rd3, %rd2;
    @%p1 bra DONE;
{_WORD}{body}
    add.u64 %rd3, %rd3, %rd5;
    bra AGAIN;
DONE:
    ret;
}}
"""


PTX = (
    ".version 5.0\n.target sm_50\n.address_size 64\n" + _entry("fill", _FILL) + _entry("verify", _VERIFY)
).encode() + b"\0"
