from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from yoban.domain import identity


def test_an_incarnation_follows_from_the_uid_alone():
    assert len(identity.incarnation("a")) == 12
    assert identity.incarnation("a") == "ca978112ca1b"
    assert identity.incarnation("a") != identity.incarnation("b")


def test_no_uid_is_no_incarnation():
    with pytest.raises(ValueError, match="uid"):
        identity.incarnation("")


def test_paths_and_names():
    assert identity.repository_path("shop", "orders", "ca978112ca1b") == "shop/orders/ca978112ca1b"
    assert identity.instance_name("orders", 3) == "orders-3"


def test_a_backups_id_is_its_time_in_utc_and_its_uid():
    asked = datetime(2026, 3, 1, 11, 0, 5, tzinfo=timezone(timedelta(hours=9)))
    assert identity.backup_id(asked, "a") == "20260301T020005Z-ca9781"


@pytest.mark.parametrize(
    "name, number",
    [
        ("orders-1", 1),
        ("orders-12", 12),
        ("orders-01", None),
        ("orders-0", None),
        ("orders-x", None),
        ("orders-²", None),
        ("other-1", None),
        ("orders-eu-1", None),
        ("orders", None),
    ],
)
def test_only_our_instances_have_numbers(name, number):
    assert identity.instance_number("orders", name) == number
