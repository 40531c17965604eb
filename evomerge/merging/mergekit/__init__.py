"""Interoperation with other merging tools."""
