"""What survives a power cut: files that are synced, renames that are atomic, locks that die with us."""
