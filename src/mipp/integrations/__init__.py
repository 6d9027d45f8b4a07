"""Ways from and to the packages that many models come from. Nothing here is imported by `mipp`."""
