pytest_plugins = ["fluxfast.pytest_plugin.plugin"]
