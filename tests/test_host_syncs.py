"""The emulation sees what would make the host wait for a device, and nothing else."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from host_syncs import HostSyncs

X = torch.arange(6.0)
MASK = X > 2
WAITS = {
    "item": lambda: X[0].item(),
    "float": lambda: float(X.sum()),
    "truth": lambda: bool((X > 1).any()),
    "slice": lambda: X[: X.long()[3]],
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "cpu": lambda: X.cpu(),
    "nonzero": lambda: torch.where(MASK),
    "mask": lambda: X[MASK],
    "masked assignment": lambda: X.clone().__setitem__(MASK, torch.ones(3)),
    "masked_select": lambda: X.masked_select(MASK),
    "unique": lambda: X.unique(),
    "unique_consecutive": lambda: X.unique_consecutive(),
    "equal": lambda: torch.equal(X, X),
    "repeat_interleave": lambda: X.repeat_interleave(X.long()),
    "list on the device": lambda: torch.tensor([1.0, 2.0], device=X.device),
    "new_tensor": lambda: X.new_tensor([1.0]),
    "move": lambda: torch.from_numpy(np.ones(3)).to(X.device),
    "list index": lambda: X[[0, 2]],
    "host index": lambda: X[torch.tensor([0, 2])],
    "one_hot": lambda: F.one_hot(X.long()),
}
GOES_ON = {
    "arithmetic": lambda: (X * 2 + 1).sum(),
    "where": lambda: torch.where(MASK, X, 0.0),
    "index": lambda: X[X.long()],
    "filled": lambda: X.clone().__setitem__(MASK, 0.0),
    "sizes": lambda: X.repeat_interleave(X.long(), output_size=15),
    "cast": lambda: X.to(torch.bfloat16),
    "host list": lambda: torch.tensor([1, 2]).tolist(),
    "host array": lambda: float(torch.from_numpy(np.ones(3))[0]),
    "pinned move": lambda: torch.from_numpy(np.ones(3)).to(X.device, non_blocking=True) + 1,
    "one_hot": lambda: F.one_hot(X.long(), 6),
    "verdict": lambda: torch.empty(6, pin_memory=False).copy_(X, non_blocking=True).numpy(),
    "host item": lambda: X[torch.tensor(2)],
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_is_counted_with_its_line(name):
    with HostSyncs() as syncs:
        WAITS[name]()
    assert syncs.found
    assert "test_host_syncs.py" in syncs.found[0].where


@pytest.mark.parametrize("name", GOES_ON)
def test_what_is_only_queued_is_not_counted(name):
    with HostSyncs() as syncs:
        GOES_ON[name]()
    assert not syncs.found, syncs


def test_waits_of_the_backward_pass_are_counted():
    class Peeks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, *grads):
            return grads[0] * grads[0].sum().item()

    x = torch.ones(3, requires_grad=True)
    with HostSyncs() as syncs:
        Peeks.apply(x).sum().backward()
    assert len(syncs.found) == 1, syncs
