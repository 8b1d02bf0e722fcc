"""The public API of `import fluxfast`: load, plan, optimize, report."""
