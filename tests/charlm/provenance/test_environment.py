"""The environment of a result: written, read and compared."""

from charlm.provenance.environment import Environment

HERE = Environment("3.11.7", "Linux", "AVX2", 2, {"charlm": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0"})


def test_environment_comes_back_from_json() -> None:
    assert Environment.from_json(HERE.to_json()) == HERE
    here = Environment.here()
    assert Environment.from_json(here.to_json()) == here
    assert here.packages["torch"].startswith("2.13.0")


def test_software_is_compared_and_the_machine_is_not() -> None:
    other = Environment("3.12.1", "macOS", "DEFAULT", 8, {"charlm": "0.2.0", "numpy": "2.5.0", "click": "8"})
    assert HERE.software_differences(other) == [
        "click: not installed on record, 8 here",
        "numpy: 2.4.6 on record, 2.5.0 here",
        "python: 3.11.7 on record, 3.12.1 here",
        "torch: 2.13.0 on record, not installed here",
    ]
    assert HERE.software_differences(HERE) == []
    assert HERE.machine_differences(other) == [
        "cpu_capability: AVX2 on record, DEFAULT here",
        "platform: Linux on record, macOS here",
    ]
