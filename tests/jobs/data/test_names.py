"""Names come back in their order, in little memory."""

from jobs.data.names import Names


def test_names_come_back_as_often_as_asked():
    expected = [f"data_256/a/airfield/{number:08d}.jpg".encode() for number in range(10_000)] + [b"latin\xe9.jpg"]
    names = Names()
    for name in expected:
        names.append(name)
    assert list(names) == list(names) == expected
    assert sum(map(len, names._blocks)) < 10 * len(expected)
    assert list(Names()) == []
