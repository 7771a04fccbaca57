"""Zip files of stored records, as torch writes them: where the bytes lie, and a directory that is fixed before they exist."""
