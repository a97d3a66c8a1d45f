"""Platform that trains, searches, records and promotes any model.

trainplane uses Ray, MLflow, S3 and WebDataset, and contains nothing about inpainting: a model is plugged in through
the interface in `trainplane.task`. `isnet` and `trainplane` never import each other (tests/test_architecture.py).
"""
