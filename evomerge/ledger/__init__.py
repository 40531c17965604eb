"""The append-only file that a study is kept in."""
