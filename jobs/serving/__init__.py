"""`isnet serve`: registered versions under traffic, over HTTP and on a page."""
