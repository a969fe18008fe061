"""What a plugin author tests with: contract classes, fakes, clocks, and fixtures (`yoban.testing.pytest_plugin`).

Nothing is imported here; import from the modules: `yoban.testing.engine` has `EngineContract`,
`yoban.testing.objectstore` has `ObjectStoreContract`, `yoban.testing.context` makes an `InstanceContext`.
"""
