"""What several tests share: links to make, and what the kernel says by other means than this library's."""
