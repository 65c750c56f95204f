"""Benchmark of moe_lm.backends.cuda.paged_attention: one decode step of one layer, against torch on keys that need no page table.

`torch`: scaled_dot_product_attention over a dense [B, J, S, d] cache of one length: less work than ours, and none of the pages'.
`shared`: a prefix on the same pages for all sequences, as few-shot prompts have it; the floor reads it once.
"""

import measure
import torch
import torch.nn.functional as F

from moe_lm.backends.cuda.paged_attention import SPLIT, paged_attention

N = 16  # tokens a page


def main() -> None:
    options = measure.arguments(__doc__ or "")
    limit, rows = measure.limits(options.dtype), []
    models = {"Qwen1.5-MoE-A2.7B": (16, 16, 128), "Qwen2.5-0.5B": (14, 2, 64)}
    cases = [(B, S, shared) for B, S in ((1, 1500), (8, 1500), (32, 1500), (128, 1000), (128, 1500), (128, 2000)) for shared in (0, 1024)]
    if measure.TINY:
        models, cases = {"tiny": (2, 1, 16)}, [(2, 300, 0), (2, 300, SPLIT)]
    for model, (H, J, d) in models.items():
        for B, S, shared in cases:
            M = -(-S // N)
            k, v = (measure.random(B * M, J, N, d, options=options) for _ in range(2))
            table = torch.randperm(B * M, device=options.device).view(B, M).int()
            table[:, : shared // N] = table[0, : shared // N]
            lengths = torch.full((B,), S, dtype=torch.int32, device=options.device)
            q = measure.random(B, H, d, options=options)
            dense_k, dense_v = (x[table.long()].transpose(1, 2).flatten(2, 3)[:, :, :S].contiguous() for x in (k, v))

            def ours(q=q, k=k, v=v, table=table, lengths=lengths, shared=shared):
                return paged_attention(q, k, v, table, lengths, shared_tokens=shared)

            def theirs(q=q, k=dense_k, v=dense_v):
                return F.scaled_dot_product_attention(q[:, :, None], k, v, enable_gqa=True)[:, :, 0]

            times = measure.medians({"triton": measure.graphed(ours), "torch": measure.graphed(theirs)}, options.repeats)
            tokens = B * S if B == 1 else B * (S - shared) + shared
            floor = measure.floors(2 * k.element_size() * J * d * tokens, 4 * H * d * B * S, limit)
            line = measure.row({"model": model, "B": B, "S": S, "shared": shared}, floor, times)
            rows.append(line | {"error": measure.error(ours(), theirs().double())})
    measure.report("paged_attention", rows, limit, options)


if __name__ == "__main__":
    main()
