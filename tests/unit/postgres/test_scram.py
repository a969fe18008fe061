from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from yoban_postgres.scram import belongs, verifier


def test_the_example_of_rfc_7677() -> None:
    import base64

    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    assert verifier("pencil", salt, 4096) == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


@settings(max_examples=15, deadline=None)
@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_a_verifier_belongs_to_its_password_only(one: str, other: str) -> None:
    kept = verifier(one)
    assert belongs(kept, one)
    assert one == other or verifier(other, b"0" * 16, 1) == verifier(one, b"0" * 16, 1) or not belongs(kept, other)
    assert verifier(one) != kept


def test_what_is_no_verifier_belongs_to_nobody() -> None:
    for kept in (None, "", "md5abc", "SCRAM-SHA-256$x", "SCRAM-SHA-256$4096:====$aa:aa"):
        assert not belongs(kept, "x")
