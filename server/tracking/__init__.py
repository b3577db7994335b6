"""Runs in TensorBoard, MLflow and Weights & Biases, by a process beside them."""
