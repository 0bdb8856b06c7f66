"""Does the memory that prediction needs grow linearly with the batch?

An exercise of the textbook. LeNet, AlexNet, VGG-11 and NiN predict batches of 1 to 512 images: a line per network, its fixed part
(weights) and its slope per image (the activations that are alive at the same time).
"""

from dataclasses import replace

from ablations.studies import batch_memory

STUDY = replace(batch_memory.STUDY, answers="prediction memory")
