"""The one room that talks to the kernel. Synchronous; knows no trio."""
