"""Put on the path as ``sitecustomize``: a process that unpickles a class of anyone's is told on.

What Python's machinery sends between processes of one run (``multiprocessing``) and what numba
keeps of its own compiled code are their own affair and no data: a frame of theirs excuses it. The
event is raised by every unpickler, in C or in Python (PEP 578), so nothing can get around it.
"""

import os
import sys

_MACHINERY = tuple(
    f"/{name}/" for name in ("multiprocessing", "concurrent", "numba", "torch/_dynamo")
)


def _refuse(event, arguments):
    if event != "pickle.find_class":
        return
    frame = sys._getframe()
    while frame is not None:
        if any(name in frame.f_code.co_filename for name in _MACHINERY):
            return
        frame = frame.f_back
    with open(os.environ["FOURM_UNPICKLED"], "a") as out:
        print(*arguments, file=out)
    raise RuntimeError(f"unpickles {arguments}")


sys.addaudithook(_refuse)
