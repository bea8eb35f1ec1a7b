"""Raw types: what lies in the shards of a modality, and what users pass and get.

One file a type, behind one protocol (``_protocol.py``): its settings, its bytes, its checks, its
numbers for networks, its crops, its picture, its spelling as text, its figures. A type is chosen in
YAML by its file's name and settings, ``raw: {type: depth, size: 64, range: [0, 10]}``, or from
elsewhere, ``raw: {type: package.module:Class}``; nothing outside of its file knows it by name.
"""

from fourm.raw._dense import Dense as Dense
from fourm.raw._legend import Legend as Legend
from fourm.raw._protocol import NetworkForm as NetworkForm
from fourm.raw._protocol import Raw as Raw
from fourm.raw._spread import Spread as Spread
from fourm.raw._spread import Tally as Tally
