"""The book: its notebooks, pages and downloads."""
