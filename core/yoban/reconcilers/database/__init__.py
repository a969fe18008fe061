"""The reconciler of `Database`: one module a phase, each gather, decide, act; `builders` holds the pure part.

`controller.build` makes its controller; importing this package loads nothing.
"""
