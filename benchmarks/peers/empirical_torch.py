"""Run by the peer's own Python: the time of torch.func's recipe for the empirical kernel, on one dense network.

It contracts Jacobians. The tutorial's other recipe, by products with vectors, holds the parameters once for every pair
of examples: hundreds of gigabytes here.
"""

import json
import statistics
import sys

import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from benchmarks.timing import seconds


def main() -> None:
    task = json.load(sys.stdin)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    widths = [task["x"][1], *[task["width"]] * task["depth"]]
    hidden = [part for a, b in zip(widths, widths[1:]) for part in (nn.Linear(a, b), nn.ReLU())]  # noqa: B905, RUF007
    net = nn.Sequential(*hidden, nn.Linear(widths[-1], task["outputs"]))
    params = {name: p.detach() for name, p in net.named_parameters()}
    x = torch.randn(*task["x"])
    single = lambda params, x: functional_call(net, params, (x[None],))[0]

    def jacobian_contraction():
        jacobians = vmap(jacrev(single), (None, 0))(params, x).values()
        return sum(torch.einsum("Naf,Mbf->NMab", j.flatten(2), j.flatten(2)) for j in jacobians)

    print(json.dumps(statistics.median(seconds(jacobian_contraction))))


if __name__ == "__main__":
    main()
