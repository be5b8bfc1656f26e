"""`spectron score`: recordings and texts of any system."""
