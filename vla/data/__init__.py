"""CALVIN's data set as samples for training: windows, masks, chunks, labels, batches.

Importing this package loads NumPy only; `dataset`, `collate`, `chunks`, `labels`, `augment` and
`transform` load torch.
"""
