"""The picture of the house in docs/house.md is what the imports say."""

from graphlib import CycleError

import house
import pytest
from test_import_graph import modules


def test_the_committed_picture_is_what_the_imports_say():
    assert house.committed() == house.drawn(), "python tests/house.py --write draws it anew"


def test_every_module_has_a_room_and_every_room_a_module():
    names = [name for name in modules() if name != "fourm"]
    homeless = [name for name in names if house.room_of(name) is None]
    assert not homeless, f"give {', '.join(homeless)} a room in tests/house.py"
    assert {house.room_of(name) for name in names} == set(house.ROOMS)
    for room in house.ROOMS:
        for name in room.modules.split():
            full = f"{room.package}.{name}"
            assert full in names, f"{room.name} names {full}, which is no module"


def test_a_new_import_changes_the_picture_and_a_circle_has_none(monkeypatch):
    found, before = house.graph(), house.drawn()
    more = {"fourm.app": found["fourm.app"] | {"fourm.alignment.align"}}
    monkeypatch.setattr(house, "graph", lambda: {**found, **more})
    assert house.drawn() != before and "demo --> alignment" in house.drawn()
    monkeypatch.setattr(house, "graph", lambda: {**found, "fourm.numbers.rng": {"fourm.cli"}})
    with pytest.raises(CycleError):
        house.drawn()
