"""Files that appear whole or not at all, full disks, JSON lines, caches of finished chunks."""
