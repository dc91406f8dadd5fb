"""Training of the reference model: batches, losses, what is trained, schedules.

Importing this package loads nothing heavy; its modules load torch and transformers.
"""
