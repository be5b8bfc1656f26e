"""`spectron score`: measure recordings and texts that any system made."""
