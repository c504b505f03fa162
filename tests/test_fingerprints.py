"""How many operations two plans do not have in common."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bulkcert.fingerprints import Changed, compared, fingerprint, unpacked

SETS = st.sets(st.integers(0, 20))


@given(SETS, SETS)
def test_what_two_plans_do_not_have_in_common(before: set[int], now: set[int]) -> None:
    changed = compared(iter(sorted(before)), iter(sorted(now)))
    assert changed == Changed(len(now - before), len(before - now))


def test_fingerprints_are_read_in_the_order_in_which_they_are_kept() -> None:
    kept = sorted(fingerprint(f'{{"assetId":"A{n}"}}') for n in range(100))
    assert len({len(each) for each in kept}) == 1
    read = list(unpacked(b"".join(kept) + b"cut"))
    assert read == sorted(read)
    assert len(set(read)) == 100


def test_the_numbers_in_words() -> None:
    assert str(Changed(3000, 1)) == "3,000 added, 1 gone"
    assert str(Changed(0, 0)) == "the same, in another order"
