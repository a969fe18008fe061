"""The commands: `yoban …` in the image, `kubectl yoban …` on a user's machine.

One module a command, imported only when it is called. Nothing is imported here.
"""
