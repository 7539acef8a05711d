"""Names of Fashion-MNIST's classes and the size of its images here, without torch, for shell completion."""

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CANVAS = 32
