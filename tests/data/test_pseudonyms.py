import stat
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from leanrec.data.pseudonyms import (
    KEY_FILE,
    KEY_VARIABLE,
    key_fingerprint,
    load_key,
    load_matching_key,
    pseudonymize,
)
from leanrec.errors import ConfigError

KEY = b"a key for tests, not for use"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


RACER = """
import time
from pathlib import Path
from leanrec.data.pseudonyms import load_key
print("ready", flush=True)
while not Path("go").exists():
    time.sleep(0.0005)
print(load_key().decode())
"""


def test_the_same_user_gets_the_same_pseudonym_and_no_other_user_does():
    ids = pa.chunked_array([["ann", "bob"], ["ann"], []])
    first, second, third = pseudonymize(ids, KEY).to_pylist()
    assert first == third != second
    assert len(first) == 32
    assert pseudonymize(pa.array(["ann"]), b"another key, as long").to_pylist() != [first]


def test_a_pseudonym_is_hmac_sha256_as_openssl_computes_it():
    # printf ann | openssl dgst -sha256 -hmac 'a key for tests, not for use'
    assert pseudonymize(pa.array(["ann"]), KEY).to_pylist() == ["55fa6b5aacde7031c60fd332edd0ea9f"]


def test_no_users_give_no_pseudonyms():
    assert pseudonymize(pa.chunked_array([], type=pa.string()), KEY).to_pylist() == []


def test_the_key_is_made_once_and_for_its_owner_only():
    key = load_key()
    assert load_key() == key
    assert len(key) >= 32
    assert stat.S_IMODE(KEY_FILE.stat().st_mode) == 0o600
    assert [path.name for path in KEY_FILE.parent.iterdir()] == [KEY_FILE.name]


def test_the_environment_goes_before_the_file(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY.decode())
    assert load_key() == KEY
    assert not KEY_FILE.exists()


def test_processes_that_race_for_the_first_key_agree():
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    Path("go").touch()
    keys = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert keys == {KEY_FILE.read_text().strip()}
    assert [path.name for path in KEY_FILE.parent.iterdir()] == [KEY_FILE.name]


def test_a_short_key_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    with pytest.raises(ConfigError, match=f"{KEY_VARIABLE}.*6 bytes.*at least 16.*openssl") as caught:
        load_key()
    assert "secret" not in str(caught.value)


def test_an_emptied_key_file_is_refused():
    KEY_FILE.parent.mkdir()
    KEY_FILE.write_text("")
    with pytest.raises(ConfigError, match=r"pseudonym\.key: the pseudonym key has 0 bytes"):
        load_key()


def test_a_key_that_others_can_read_is_warned_about(caplog):
    key = load_key()
    Path(KEY_FILE).chmod(0o644)
    assert load_key() == key
    assert "chmod 600" in caplog.text
    assert key.decode() not in caplog.text


def test_the_fingerprint_names_the_key_and_does_not_tell_it(monkeypatch):
    fingerprint = key_fingerprint(KEY)
    assert len(fingerprint) == 8
    assert fingerprint != key_fingerprint(KEY + b"!")
    assert KEY.hex()[:8] != fingerprint
    monkeypatch.setenv(KEY_VARIABLE, KEY.decode())
    assert load_matching_key(fingerprint) == KEY


def test_another_key_than_the_run_was_planned_with_is_refused(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY.decode())
    with pytest.raises(ConfigError, match="planned with 00000000") as caught:
        load_matching_key("00000000")
    assert KEY.decode() not in str(caught.value)
