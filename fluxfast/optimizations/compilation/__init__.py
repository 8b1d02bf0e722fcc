"""torch.compile, torch.export with AOTInductor, and compiler flags."""
