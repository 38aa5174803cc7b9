"""Who may call, and how often."""

import hashlib
import stat
from pathlib import Path

import pytest

from leanrec.errors import ConfigError
from serving.gateway import keys as keys_module
from serving.gateway.keys import ApiKeys, local_key
from serving.gateway.limits import RateLimit


def line(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n"


def test_a_key_names_its_owner_and_any_other_names_nobody(tmp_path: Path) -> None:
    lines = line("shop", "s3cret") + line("app:web", "other") + line("unset", "")
    (tmp_path / "keys").write_text("# product teams\n\n" + lines)
    keys = ApiKeys(tmp_path / "keys")
    assert keys.name_of("s3cret") == "shop"
    assert keys.name_of("other") == "app:web"
    for wrong in ("", "s3cre", "s3cret ", line("shop", "s3cret").strip(), "ü\ud800"):
        assert keys.name_of(wrong) is None


def test_a_changed_file_is_read_again_and_a_damaged_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "LOOK_S", 0)
    file = tmp_path / "keys"
    file.write_text(line("shop", "old"))
    keys = ApiKeys(file)
    file.write_text(line("shop", "new") + line("app", "more"))
    assert (keys.name_of("old"), keys.name_of("new"), keys.name_of("more")) == (None, "shop", "app")
    file.write_text("nonsense")
    assert keys.name_of("new") == "shop"
    file.unlink()
    assert keys.name_of("new") == "shop"


@pytest.mark.parametrize("text", ["", "shop\n", "shop:abc\n", f"shop:{'g' * 64}\n", f":{'a' * 64}\n"])
def test_a_file_without_keys_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError, match=r"name:sha256-hex"):
        ApiKeys(tmp_path / "keys")


def test_a_local_key_is_made_once_for_its_owner_alone_and_the_file_does_not_hold_it(tmp_path: Path) -> None:
    file = tmp_path / ".leanrec" / "gateway.keys"
    key = local_key(file)
    assert key is not None
    assert local_key(file) == key
    assert ApiKeys(file).name_of(key) == "local"
    assert key not in file.read_text()
    for made in file.parent.iterdir():
        assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_a_file_that_somebody_else_made_gives_no_local_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(line("shop", "s3cret"))
    assert local_key(tmp_path / "keys") is None


def test_a_bucket_lets_a_burst_through_then_the_rate_and_keeps_callers_apart() -> None:
    now = 0.0
    limit = RateLimit(per_s=2, burst=3, clock=lambda: now)
    assert [limit.take("shop") for _ in range(4)] == [0, 0, 0, 0.5]
    assert limit.take("app") == 0
    now = 0.5
    assert [limit.take("shop") for _ in range(2)] == [0, 0.5]
    now = 1000
    assert [limit.take("shop") > 0 for _ in range(4)] == [False, False, False, True]
