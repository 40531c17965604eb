"""One HTML file that holds the whole report of a study: its data first, then the page that shows them."""
