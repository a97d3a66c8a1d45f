"""`isnet serve`: registered versions over HTTP and on a page."""
