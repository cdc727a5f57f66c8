"""Kept models: the model that a client keeps is a folder of its own, and predicts without anybody's training data.

`save.save_model` writes it, `load.load_model` reads it, `model.KeptModel` predicts. Nothing is imported here: the command line
lists formats without loading torch.
"""
