"""Training of the model `photo`: the bridge between a pretrained tower and language model."""
