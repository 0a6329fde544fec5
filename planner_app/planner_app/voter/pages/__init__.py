"""The voter's web page, written by the server; what a page shows is decided apart from how it is written."""
