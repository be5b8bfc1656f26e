"""What hears, reads, knows voices and rates: outside judges behind small interfaces, and the counting world's own."""
