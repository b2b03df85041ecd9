"""What a machine needs to boot a snapshot: its kernel, its initrd with our hook, and the kernel's arguments."""
