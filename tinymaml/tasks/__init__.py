"""Task families: where few-shot tasks come from. One file each; `sinusoid` is the shortest.

A family has `sample(rng, tasks, split)` → ((xs, ys), (xq, yq)) with tasks stacked on axis 0, and the attributes
`metric` ("mse" or "accuracy"), `input_shape` (of one example) and `outputs` (of the network: dimensions, or classes).
"""
