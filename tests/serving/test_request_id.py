"""An id names the release that answered, and only ids of ours do."""

import pytest

from serving.gateway.request_id import credited_release, derive_key, make

KEY = derive_key(b"a pseudonym key of thirty-two b.")


def test_an_id_names_the_release_also_to_another_process_with_the_same_key() -> None:
    assert credited_release(make(17, KEY), derive_key(b"a pseudonym key of thirty-two b.")) == 17


def test_an_id_that_credits_none_names_the_release_all_the_same() -> None:
    assert credited_release(make(17, KEY), KEY) == 17
    marked = make(17, KEY, is_credited=False)
    assert marked.startswith("17.uncredited.")
    assert credited_release(marked, KEY) is None


def test_neither_can_be_made_of_the_other() -> None:
    marked, plain = make(17, KEY, is_credited=False), make(17, KEY)
    for forged in (marked.replace(".uncredited", ""), plain.replace("17.", "17.uncredited.", 1)):
        assert credited_release(forged, KEY) is None
        assert credited_release(forged, KEY) is None


def test_two_ids_differ() -> None:
    assert make(1, KEY) != make(1, KEY)


@pytest.mark.parametrize(
    "changed",
    [
        lambda made: made.replace("17.", "18.", 1),
        lambda made: made[:-1] + ("0" if made[-1] != "0" else "1"),
        lambda made: made + "\n",
        lambda made: "0" + made,
        lambda made: "",
        lambda made: "17",
        lambda made: "١٧" + made[2:],
    ],
)
def test_an_id_that_was_changed_credits_no_release(changed) -> None:
    assert credited_release(changed(make(17, KEY)), KEY) is None


def test_another_key_and_an_answer_without_a_release_name_none() -> None:
    assert credited_release(make(17, KEY), derive_key(b"another")) is None
    assert credited_release(make(0, KEY), KEY) is None
