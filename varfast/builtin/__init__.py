"""The model that ships: its weights, its data (Fashion-MNIST), its classifier and judge, its training.

`varfast.models.load()` loads it; nothing here is imported by that, nor by the ops.
"""
