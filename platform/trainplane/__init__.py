"""What is true of any model that is trained, searched, recorded and promoted here.

trainplane knows Ray, MLflow, S3 and WebDataset. It has never heard of inpainting: a model reaches it through the
seam in `trainplane.task`, and `isnet` and `trainplane` never import each other (tests/test_architecture.py).
"""
