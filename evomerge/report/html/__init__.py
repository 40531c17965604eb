"""The report of a study as one HTML file: its data, and the page that shows them."""
